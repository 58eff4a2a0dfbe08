"""Backends: each keeps the contract of `ops` its own way; `registry.py` chooses among them."""
