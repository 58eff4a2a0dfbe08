"""Backends: implementations of the ops; `registry.py` chooses one per call."""
