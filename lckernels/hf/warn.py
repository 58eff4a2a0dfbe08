"""Warnings about calls that run as dense attention."""

import warnings
from functools import cache

import torch


def warn_once(message: str) -> None:
    """Warns once per process and message; not while torch.compile traces."""
    if not torch.compiler.is_compiling():
        _warn(message)


@cache
def _warn(message: str) -> None:
    warnings.warn(f"attn_implementation='lckernels': {message}", stacklevel=4)
