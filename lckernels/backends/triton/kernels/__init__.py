"""The Triton kernels of attention, and the device functions that they share."""
