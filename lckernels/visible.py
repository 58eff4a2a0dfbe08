"""How many keys queries see, without a mask: ranges of keys by window and chunk."""

import torch
from torch import Tensor


def visible_range(
    p: Tensor, seqlen_k: int, window_size: tuple[int, int], chunk: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The range of keys that each query sees.

    Args:
        p: key positions of the queries, int64, any shape.
        seqlen_k: keys.
        window_size: (left, right), as in `windowed_attention`.
        chunk: as in `Layout`, with chunk_origin 0.

    Returns:
        First key of the query's chunk (0 without chunks), first visible key and last visible key, each of p's
        shape. No key is visible where the last is before the first.
    """
    left, right = window_size
    start, last = torch.zeros_like(p), torch.full_like(p, seqlen_k - 1)
    if chunk:
        block = torch.div(p, chunk, rounding_mode="floor") * chunk
        start, last = block.clamp(min=0), (block + chunk - 1).clamp(max=seqlen_k - 1)
    if right >= 0:
        last = torch.minimum(last, p + right)
    first = torch.maximum(start, p - left) if left >= 0 else start
    return start, first, last


def visible_pairs(
    seqlen_q: int, seqlen_k: int, window_size: tuple[int, int], *, sink_tokens: int = 0, chunk: int = 0
) -> int:
    """Number of (query, key) pairs by the rule of `windowed_attention`, queries at the end of the keys."""
    p = torch.arange(seqlen_q) + (seqlen_k - seqlen_q)
    start, first, last = visible_range(p, seqlen_k, window_size, chunk)
    in_window = (last - first + 1).clamp(min=0)
    last_sink = torch.minimum(last, first - 1).clamp(max=sink_tokens - 1)
    in_sink = (last_sink - start + 1).clamp(min=0)
    return int((in_window + in_sink).sum())
