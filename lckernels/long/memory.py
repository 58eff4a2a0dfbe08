"""Estimates of memory: of a layer's activations, and the most tokens that a model reads in one row."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lckernels.long.attention import stores_scores

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder

_CGROUP = Path("/sys/fs/cgroup")
_PART = 2  # a row may take one part in so many of the free memory


def encoder_sizes(config: object) -> tuple[int, int, int] | None:
    """(num_hidden_layers, hidden_size, intermediate_size); None if the config has not all of them."""
    intermediate = getattr(config, "intermediate_size", getattr(config, "hidden_dim", None))
    found = (getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None), intermediate)
    return found if all(isinstance(size, int) for size in found) else None


def layer_values(tokens: int, wide: int, hidden: int, intermediate: int) -> int:
    """Residual, q, k, v, attention, its projection; feed-forward and its activation, of `wide` tokens."""
    return 6 * hidden * tokens + 2 * intermediate * wide


def most_tokens(encoder: "LongEncoder", seqlen: int) -> int | None:
    """The most tokens of a row, up to `seqlen`, that fit in half of the free memory; None if not known."""
    free, sizes = free_bytes(encoder.device), encoder_sizes(encoder.config)
    if free is None or sizes is None:
        return None
    _, hidden, intermediate = sizes
    per_value = torch.finfo(encoder.dtype).bits // 8
    # Three copies of the states in fp64 are compared.
    per_token = per_value * layer_values(1, 1, hidden, intermediate) + 3 * 8 * hidden
    per_pair = 0
    if stores_scores(encoder.model, encoder.attention, seqlen):
        # Scores and probabilities of each head.
        per_pair = 2 * per_value * getattr(encoder.config, "num_attention_heads", 1)
    budget = free // _PART
    if not per_pair:
        return min(seqlen, budget // per_token)
    root = math.isqrt(per_token**2 + 4 * per_pair * budget)
    return min(seqlen, (root - per_token) // (2 * per_pair))


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the device: of the CPU what the system and the control group allow; None if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type != "cpu":
        return None
    found = [_available(), _group_free()]
    return min((size for size in found if size is not None), default=None)


def _available() -> int | None:
    """MemAvailable of Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _group_free() -> int | None:
    """What the limit of a container leaves."""
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))  # "max" without a limit
        return max(limit - int((_CGROUP / "memory.current").read_text(encoding="ascii")), 0)
    except (OSError, ValueError):
        return None
