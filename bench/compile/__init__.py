"""Kernels compiled for a GPU that is absent: registers, spills, instructions, first-call cost."""
