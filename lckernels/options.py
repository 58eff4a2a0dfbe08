"""The options of an attention besides q, k and v: visible keys, scores, extra tokens."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from lckernels.pytree import register_pytree


@dataclass(frozen=True, eq=False)
class Layout:
    """Which keys a query sees besides the window. B is the batch, or the number of segments when packed.

    Attributes:
        offset: query i has key position `i + offset`; an int, an integer tensor () or (B,), or None (default)
            for `seqlen_k - seqlen_q` (bottom-right alignment; 0 is the top-left alignment of torch's SDPA).
        kv_start: (B,) integer; keys before kv_start[b] are invalid (padding on the left).
        kv_end: (B,) integer; keys from kv_end[b] on are invalid (padding on the right).
        kv_mask: (batch, seqlen_k) bool; False marks an invalid key.
        cu_seqlens_q: (B + 1,) int32 or int64; packed input: q, k, v have batch 1 and segment b has the rows
            `[cu_seqlens[b], cu_seqlens[b + 1])`. Positions, offsets, sinks and chunks are local to the
            segment. flash-attn's (total, heads, head_dim) tensors go in as q[None], k[None], v[None].
        cu_seqlens_k: the same for k and v; both are given or none.
        max_seqlen_q: accepted for the sake of flash-attn's signature; no kernel reads it.
        max_seqlen_k: longest segment of k; None (default) means the packed length. No kernel reads it, so a
            wrong value does not change results; it enters the estimate of the scores' size that limits the
            fallback to `eager`.
        segment_ids: (batch, seqlen_k) integer; a query at key position p sees only keys with the id of key p.
        sink_tokens: the first keys of the segment (from kv_start) that stay visible left of the window.
        chunk: a query sees only its own chunk of that many keys; 0 (default) turns it off.
        chunk_origin: position where chunks start; an int (default 0) or an integer tensor (B,).
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
    # Before `chunk`: torch.export replaces the name of a field within longer names that follow it.
    chunk_origin: int | Tensor = 0
    chunk: int = 0


@dataclass(frozen=True, eq=False)
class Score:
    """How a score is made from `softmax_scale * q.k`, in the order of the fields.

    ALiBi and any other bias that depends on the distance alone is a table with one value per head and
    distance; no seqlen_q x seqlen_k tensor is made. For causal attention over up to N keys the distances
    j - p are 1 - N to 0, so distance 0 is in column N - 1:

        slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
        alibi = Score(rel_bias=slopes[:, None] * torch.arange(1 - N, 1), bias_center=N - 1)
        out = windowed_attention(q, k, v, window_size=(-1, 0), score=alibi)

    A key that is farther than the table takes the value of its last column on that side, so N must cover the
    longest distance that is seen.

    Attributes:
        softcap: `softcap * tanh(s / softcap)`; 0.0 (default) turns it off (Gemma 2).
        rel_bias: (num_heads, L) float; adds `rel_bias[h, clamp(j - p + bias_center, 0, L - 1)]` for key j and
            query position p. T5's buckets, ALiBi and learned relative tables reduce to it.
        bias_center: the column of rel_bias for distance 0.
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

    Attributes:
        q: (num_chunks, num_extra, num_heads, head_dim).
        k: (num_chunks, num_extra, num_kv_heads, head_dim).
        v: (num_chunks, num_extra, num_kv_heads, head_dim_v).
    """

    q: Tensor
    k: Tensor
    v: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v."""
        return self.q, self.k, self.v


for _options in (Layout, Score, ExtraTokens):
    register_pytree(_options)


class AttentionOptions(NamedTuple):
    """All options of an attention, grouped.

    Attributes:
        window_size: (left, right); -1 removes a bound.
        softmax_scale: factor of q.k.
        layout: which keys a query sees.
        score: how a score is made.
        dropout_p: probability of dropping.
        seed: (1,) int64; None without dropout.
    """

    window_size: tuple[int, int]
    softmax_scale: float
    layout: Layout
    score: Score
    dropout_p: float
    seed: Tensor | None
