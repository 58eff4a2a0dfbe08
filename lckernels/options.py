"""What shapes an attention beside q, k and v: which keys a query sees, how a score is made, extra tokens."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Which keys a query sees, beside the window. B is the batch, or the number of segments when packed.

    offset: query i stands at key position `i + offset`; an int, an integer tensor () or (B,), or None for
        `seqlen_k - seqlen_q` (bottom-right).
    kv_start, kv_end: (B,) integer; keys outside `[kv_start[b], kv_end[b])` are invalid.
    kv_mask: (batch, seqlen_k) bool; False marks an invalid key.
    cu_seqlens_q, cu_seqlens_k: (B + 1,) int32; packed input: q, k, v have batch 1 and segment b owns the rows
        `[cu_seqlens[b], cu_seqlens[b + 1])`. Positions, offsets, sinks and chunks are local to the segment.
    max_seqlen_q, max_seqlen_k: longest segment; None means the packed length.
    segment_ids: (batch, seqlen_k) integer; a query at key position p sees only keys with the id of key p.
    sink_tokens: the first keys of the segment (from kv_start) that stay visible left of the window.
    chunk: a query sees only its own chunk of that many keys; 0 turns it off.
    chunk_origin: position where chunks start; an int or an integer tensor (B,).
    """

    offset: int | Tensor | None = None
    kv_start: Tensor | None = None
    kv_end: Tensor | None = None
    kv_mask: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    max_seqlen_q: int | None = None
    max_seqlen_k: int | None = None
    segment_ids: Tensor | None = None
    sink_tokens: int = 0
    chunk: int = 0
    chunk_origin: int | Tensor = 0


@dataclass(frozen=True, eq=False)
class Score:
    """How a score is made from `softmax_scale * q.k`, in this order.

    softcap: `softcap * tanh(s / softcap)`; 0.0 turns it off (Gemma 2).
    rel_bias: (num_heads, L) float; adds `rel_bias[h, clamp(j - p + bias_center, 0, L - 1)]` for key j, query
        position p. T5's buckets, ALiBi and learned relative tables reduce to it.
    bias_center: the column of rel_bias that stands for distance 0.
    sink_logits: (num_heads,) float; adds `exp(sink_logits[h])` to the softmax denominator (gpt-oss).
    """

    softcap: float = 0.0
    rel_bias: Tensor | None = None
    bias_center: int = 0
    sink_logits: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ExtraTokens:
    """Tokens that each chunk of a chunked attention has of its own, special tokens for instance.

    They see their chunk and one another, and every token of the chunk sees them.

    q: (num_chunks, num_extra, num_heads, head_dim).
    k: (num_chunks, num_extra, num_kv_heads, head_dim).
    v: (num_chunks, num_extra, num_kv_heads, head_dim_v).
    """

    q: Tensor
    k: Tensor
    v: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v


class AttentionOptions(NamedTuple):
    """All that shapes an attention beside q, k and v, as the op hands it to a backend."""

    window_size: tuple[int, int]
    softmax_scale: float
    layout: Layout
    score: Score
    dropout_p: float
    seed: Tensor | None  # (1,) int64; None without dropout


def number_or_tensor(x: int | Tensor | None, absent: int | None = None) -> tuple[int | None, Tensor | None]:
    """x as an op takes it, a number and a tensor apart: `absent` is the number where x is a tensor."""
    return (absent, x) if isinstance(x, Tensor) else (x, None)
