"""The benchmarks: `make bench` runs the quick suite, `python -m pytest bench --full` all of it."""
