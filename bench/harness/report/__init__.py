"""Markdown pages and plots made from stored rows: `python -m bench.harness.report`."""
