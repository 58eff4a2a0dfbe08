"""Benchmarks on a CPU, run by `pytest bench`: each checks every provider, then times all in turns."""
