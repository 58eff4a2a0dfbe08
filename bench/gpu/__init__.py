"""Correctness checks and timings on a GPU; `bench/gpu.sh` runs them in one call."""
