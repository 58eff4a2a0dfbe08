"""Measurement without kernels: timing in turns, memory, checks, rows, the roofline, reports."""
