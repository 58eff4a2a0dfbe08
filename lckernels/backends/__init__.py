"""Backends: each keeps the contract of `ops.py` its own way; `dispatch.py` chooses among them."""
