"""Why a peer is left out of a comparison: unsupported, too much memory, too slow."""

from importlib import import_module
from types import ModuleType

import torch

from bench.harness.comparison import Unsupported

MEMORY_LIMIT = 2 * 2**30  # bytes of masks or scores above which a peer does not run
_DENSE_RATE = 1.5e11  # FLOP/s that a dense peer is assumed to reach at most


class TooSlow(Unsupported):
    """One call of a peer takes longer than the limit."""


def within_memory(needed: int, what: str, device: torch.device | str) -> None:
    """Raises Unsupported if `needed` bytes exceed MEMORY_LIMIT; on a GPU the allocator raises."""
    if needed > MEMORY_LIMIT and str(device) == "cpu":
        raise Unsupported(f"{what} of more than {MEMORY_LIMIT / 2**30:.0f} GiB")


def raise_if_dense_pass_is_slow(flops: float, limit: float) -> None:
    """Raises TooSlow if `flops` take more than `limit` seconds at _DENSE_RATE."""
    if flops / _DENSE_RATE > limit:
        raise TooSlow(f"more than {limit:g} s a pass over all pairs at {_DENSE_RATE / 1e9:g} GFLOP/s")


def installed(name: str) -> ModuleType:
    """The module. Raises Unsupported if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise Unsupported(f"{error.name} is not installed; pip install '.[bench]' installs it") from error
