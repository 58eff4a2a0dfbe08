"""What runs on the device, and what its kernels share."""
