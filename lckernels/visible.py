"""How many keys queries see: by window and chunk, and by a layout with padding and segments."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lckernels.options import AttentionOptions, Layout, Score
from lckernels.reference import attention_pieces, key_positions

_PLAIN = Layout()


def visible_range(
    p: Tensor, seqlen_k: int, window_size: tuple[int, int], chunk: int = 0, chunk_origin: int | Tensor = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The range of keys that each query sees.

    Args:
        p: key positions of the queries, int64, any shape.
        seqlen_k: keys.
        window_size: (left, right), as in `windowed_attention`.
        chunk: as in `Layout`.
        chunk_origin: as in `Layout`; a tensor has a shape that broadcasts with p's.

    Returns:
        First key of the query's chunk (0 without chunks), first visible key and last visible key, each of p's
        shape. No key is visible where the last is before the first.
    """
    left, right = window_size
    start, last = torch.zeros_like(p), torch.full_like(p, seqlen_k - 1)
    if chunk:
        block = torch.div(p - chunk_origin, chunk, rounding_mode="floor") * chunk + chunk_origin
        start, last = block.clamp(min=0), (block + chunk - 1).clamp(max=seqlen_k - 1)
    if right >= 0:
        last = torch.minimum(last, p + right)
    first = torch.maximum(start, p - left) if left >= 0 else start
    return start, first, last


def visible_pairs(
    seqlen_q: int, seqlen_k: int, window_size: tuple[int, int], layout: Layout = _PLAIN, batch: int = 1
) -> int:
    """Number of (query, key) pairs of one head by the rule of `windowed_attention`.

    Time and memory grow with seqlen_q + seqlen_k.

    Args:
        seqlen_q: queries; rows of q where the input is packed.
        seqlen_k: keys; rows of k where the input is packed.
        window_size: as in `windowed_attention`.
        layout: as there; its tensors are read on the host.
        batch: sequences; 1 where the input is packed.
    """
    tensors = {name: x.cpu() for name, x in vars(layout).items() if isinstance(x, Tensor)}
    layout = replace(layout, **tensors)
    options = AttentionOptions(window_size, 1.0, layout, Score(), 0.0, None)
    if layout.cu_seqlens_q is None:
        return _pairs(batch, seqlen_q, seqlen_k, options)
    pieces = attention_pieces(options, seqlen_q, seqlen_k)
    return sum(
        _pairs(1, rows.stop - rows.start, keys.stop - keys.start, local) for _, rows, keys, local in pieces
    )


def _pairs(batch: int, seqlen_q: int, seqlen_k: int, options: AttentionOptions) -> int:
    layout = options.layout
    same = not any(isinstance(x, Tensor) for x in vars(layout).values())
    p = key_positions(1 if same else batch, seqlen_q, seqlen_k, layout, torch.device("cpu"))
    if not p.numel() or not seqlen_k:
        return 0
    origin = layout.chunk_origin
    origin = origin.long().reshape(-1, 1) if isinstance(origin, Tensor) else origin
    start, first, last = visible_range(p, seqlen_k, options.window_size, layout.chunk, origin)
    begin = torch.zeros_like(p)
    if layout.kv_start is not None:
        begin = begin + layout.kv_start.long()[:, None]
        start, first = torch.maximum(start, begin), torch.maximum(first, begin)
    if layout.kv_end is not None:
        last = torch.minimum(last, layout.kv_end.long()[:, None] - 1)
    count: Callable[[Tensor, Tensor], Tensor] = _all_keys
    if layout.kv_mask is not None or layout.segment_ids is not None:
        keys = _SegmentKeys(p, seqlen_k, layout)
        count = keys.count
        if layout.segment_ids is not None:
            begin = torch.maximum(begin, keys.begin)
    last_sink = torch.minimum(torch.minimum(last, first - 1), begin + layout.sink_tokens - 1)
    pairs = int((count(first, last) + count(start, last_sink)).sum())
    return pairs * batch if same else pairs


def _all_keys(first: Tensor, last: Tensor) -> Tensor:
    return (last - first + 1).clamp(min=0)


class _SegmentKeys:
    """The valid keys by sequence, segment and position, sorted, so that a range is two binary searches.

    Attributes:
        begin: (batch, seqlen_q) int64, the first key of each query's segment.
    """

    def __init__(self, p: Tensor, seqlen_k: int, layout: Layout) -> None:
        batch, size = p.shape[0], (p.shape[0], seqlen_k)
        ids, valid = layout.segment_ids, layout.kv_mask
        ids = torch.zeros(size, dtype=torch.int64, device="cpu") if ids is None else ids
        valid = torch.ones(size, dtype=torch.bool, device="cpu") if valid is None else valid
        names, number = torch.unique(ids, return_inverse=True)
        number = number + torch.arange(batch, device="cpu")[:, None] * len(names)
        j = torch.arange(seqlen_k, device="cpu").expand(size)
        own = number.gather(1, p.clamp(0, seqlen_k - 1))
        begin = torch.full((batch * len(names),), seqlen_k, device="cpu")
        self.begin = begin.scatter_reduce(0, number.flatten(), j.flatten(), "amin")[own]
        self._seqlen, self._origin = seqlen_k, own * seqlen_k
        self._keys = (number * seqlen_k + j)[valid].sort().values
        inside = (p >= 0) & (p < seqlen_k)
        self._inside = inside if layout.segment_ids is not None else torch.ones_like(inside)

    def count(self, first: Tensor, last: Tensor) -> Tensor:
        """How many keys of [first, last] each query's segment has, (batch, seqlen_q)."""
        bounds = (self._origin + x.clamp(0, self._seqlen) for x in (first, last + 1))
        before, until = (torch.searchsorted(self._keys, bound) for bound in bounds)
        return (until - before).clamp(min=0) * self._inside
