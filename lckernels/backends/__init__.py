"""Backends: each keeps the contract of `ops` its own way; `dispatch.py` chooses among them."""
