"""Philox4x32-10 in plain torch: the random bits of dropout, the same on every backend.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _mulhilo(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b; b holds unsigned 32-bit values in int64."""
    high = a * (b >> 16)
    low = a * (b & 0xFFFF) + ((high & 0xFFFF) << 16)
    return (high >> 16) + (low >> 32), low & _MASK


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, ...]:
    """Four 32-bit draws (int64 tensors) per counter; the counter's words broadcast; seed is one int64."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*(word & _MASK for word in counter))
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        hi0, lo0 = _mulhilo(_MULTIPLIERS[0], c0)
        hi1, lo1 = _mulhilo(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ key0, lo1, hi0 ^ c3 ^ key1, lo0
        key0, key1 = (key0 + _WEYL[0]) & _MASK, (key1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def dropout_keep(
    seed: Tensor, dropout_p: float, position: Tensor, num_heads: int, seqlen_k: int, first_batch: int = 0
) -> Tensor:
    """The dropout mask, True where a probability is kept.

    Args:
        seed: (1,) int64.
        dropout_p: probability of dropping.
        position: (B, Sq) int64, key positions of the queries.
        num_heads: query heads.
        seqlen_k: keys.
        first_batch: index of the first row of the batch (the segment's index when packed).

    Returns:
        (B, num_heads, Sq, Sk) bool.
    """
    batch, device = position.shape[0], position.device
    groups = torch.arange((seqlen_k + 3) // 4, device=device)
    heads = torch.arange(num_heads, device=device)[:, None, None]
    rows = torch.arange(first_batch, first_batch + batch, device=device)[:, None, None, None]
    draws = philox4x32((groups, position[:, None, :, None], heads, rows), seed)
    lanes = torch.stack(draws, dim=-1).flatten(-2)[..., :seqlen_k]
    return lanes >= dropout_threshold(dropout_p)


def dropout_threshold(dropout_p: float) -> int:
    """The threshold of the 32-bit draws: smaller draws are dropped."""
    return int(dropout_p * 2**32)
