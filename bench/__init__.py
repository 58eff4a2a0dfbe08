"""The benchmarks: `make bench` runs the quick suite, `python -m pytest bench --full` all of it.

`python -m pytest bench/test_attention.py --full` is the attention table alone; `python -m bench.report` then
writes the page and the pictures.
"""
