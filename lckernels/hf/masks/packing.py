"""Packed sequences by flash attention's arguments cu_seq_lens_q and cu_seq_lens_k."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.key_mask import KeyMask, layout_of
from lckernels.options import Layout

CU_SEQLENS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


def has_cu_seqlens(options: dict[str, Any]) -> bool:
    """Whether the call has cu_seq_lens_q or cu_seq_lens_k."""
    return any(options.get(name) is not None for name in CU_SEQLENS[:2])


def has_segments(mask: Tensor | None) -> bool:
    """Whether the mask itself separates the sequences of a packed row."""
    return isinstance(mask, KeyMask) and layout_of(mask).segment_ids is not None


def packed_layout(layout: Layout, seqlen_k: int, options: dict[str, Any]) -> Layout:
    """The layout of a batch of one row with cu_seqlens; padding becomes a mask of the whole row.

    Windows, chunks and sink tokens count within each sequence.

    Args:
        layout: of the row without packing.
        seqlen_k: number of keys of the row.
        options: of the call; cu_seq_lens_q and cu_seq_lens_k are (num_sequences + 1,) int32.

    Raises:
        NotServed: keys of a cache, or padding and chunks.
    """
    if isinstance(layout.offset, Tensor) or layout.offset:
        raise NotServed("cu_seq_lens_q: got a tensor and keys of a cache; expected an empty cache or none")
    valid = layout.kv_mask
    if layout.kv_start is not None:
        if layout.chunk:
            raise NotServed("cu_seq_lens_q: got a tensor, padding and chunks; expected no padding")
        if valid is None:
            at = torch.arange(seqlen_k, device=layout.kv_start.device)
            valid = (at >= layout.kv_start[:, None]) & (at < layout.kv_end[:, None])
    cu_seqlens_q, cu_seqlens_k, *longest = (options.get(name) for name in CU_SEQLENS)
    max_seqlen_q, max_seqlen_k = (x if isinstance(x, int) else None for x in longest)
    return replace(
        layout, kv_start=None, kv_end=None, kv_mask=valid, chunk_origin=0, cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k, max_seqlen_q=max_seqlen_q, max_seqlen_k=max_seqlen_k,
    )  # fmt: skip
