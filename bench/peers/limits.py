"""Why a peer is left out of a comparison: unsupported, too much memory, too slow."""

from importlib import import_module
from types import ModuleType

import torch

MEMORY_LIMIT = 2 * 2**30  # bytes of masks or scores above which a peer does not run
_DENSE_RATE = 1.5e11  # FLOP/s that they are trusted with before they are tried


class Unsupported(RuntimeError):
    """A peer cannot do this case; the message says why."""


class TooSlow(Unsupported):
    """One call takes longer than the contest allows a peer."""


def within_memory(needed: int, what: str, device: torch.device | str) -> None:
    """Raises Unsupported if so many bytes are too many; a GPU's memory refuses by itself."""
    if needed > MEMORY_LIMIT and str(device) == "cpu":
        raise Unsupported(f"{what} of more than {MEMORY_LIMIT / 2**30:.0f} GiB")


def refuse_dense_pass(flops: float, limit: float) -> None:
    """Raises TooSlow if so many FLOPs over all pairs surely take more than `limit` seconds."""
    if flops / _DENSE_RATE > limit:
        raise TooSlow(f"more than {limit:g} s a pass over all pairs at {_DENSE_RATE / 1e9:g} GFLOP/s")


def installed(name: str) -> ModuleType:
    """The module. Raises Unsupported if it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise Unsupported(f"{error.name} is not installed; pip install '.[bench]' brings it") from error
