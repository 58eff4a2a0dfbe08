"""The benchmarks: `make bench` runs the quick suite, `python -m pytest bench --full` all of it.

`python -m pytest bench/suites/test_attention.py --full` is the attention table alone;
`python -m bench.harness.report` then writes the page and the plots.
"""
