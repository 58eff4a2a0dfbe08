"""The definitions: each op in plain torch. Every backend is compared with these.

Arithmetic is fp32 (fp64 for fp64 inputs); results are rounded once to the input's dtype. Differentiable by
autograd. Scores are materialised: memory grows with seqlen_q * seqlen_k.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from lckernels.checks import check_packed_bounds
from lckernels.dtypes import compute_dtype
from lckernels.options import AttentionOptions, ExtraTokens, Layout, Score
from lckernels.philox import dropout_keep
from lckernels.plan import Plan, PlanArgs


def segment_weights(row: Sequence[int], weights: str | Tensor, dtype: torch.dtype) -> Tensor:
    """Weights (length,) of one row of `Plan.segments`; `weights` as in overlap_merge."""
    chunk, col, _, length, *ranges = row[:8]
    if isinstance(weights, Tensor):
        return weights[chunk, col : col + length].to(dtype)
    u = torch.arange(length, dtype=dtype, device="cpu")
    return weights_at(u, length, *ranges, weights)


def weights_at(
    u: Tensor,
    length: int | Tensor,
    keep_start: int | Tensor,
    keep_end: int | Tensor,
    starts_document: int | Tensor,
    ends_document: int | Tensor,
    weights: str,
) -> Tensor:
    """Weights at the positions u of a segment, floating; or of several, with tensors like u."""
    left = (u + 1).clamp(min=length * starts_document)  # length where it starts the document
    right = (length - u).clamp(min=length * ends_document)
    m = torch.minimum(left, right)
    if weights == "uniform":
        return torch.ones_like(m)
    if weights == "triangular":
        return m
    if weights == "hann":
        return torch.sin(math.pi * m / (2 * (length + 1))) ** 2
    if weights == "crop":
        return ((u >= keep_start) & (u < keep_end)).to(u.dtype)
    raise ValueError(f"weights: got {weights!r}; allowed are uniform, triangular, hann, crop or a tensor")


def overlap_merge(chunks: Tensor, plan: Plan | PlanArgs, weights: str | Tensor = "triangular") -> Tensor:
    """`out[t] = sum_c a_c(t) x_c(t) / sum_c a_c(t)`: (num_chunks, chunk_len, dim) -> (total_len, dim).

    A position whose weights sum to zero gives 0. Values of weight zero are not read: inf or NaN in such a
    row reach neither the result nor the gradient of the weight, which is then 0.
    """
    dtype = compute_dtype(chunks.dtype)
    total = chunks.new_zeros(plan.total_len, chunks.shape[2], dtype=dtype)
    weight_sum = chunks.new_zeros(plan.total_len, 1, dtype=dtype)
    for row in plan.segments.tolist():
        chunk, col, start, length = row[:4]
        a = segment_weights(row, weights, dtype).to(chunks.device)[:, None]
        x = chunks[chunk, col : col + length].to(dtype)
        read = (a > 0) | torch.isfinite(x).all(-1, keepdim=True)
        a, x = torch.where(read, a, 0), torch.where(read, x, 0)
        total[start : start + length] += a * x
        weight_sum[start : start + length] += a
    merged = torch.where(weight_sum > 0, total / torch.where(weight_sum > 0, weight_sum, 1), 0)
    return merged.to(chunks.dtype)


def overlap_split(sequence: Tensor, plan: Plan | PlanArgs) -> Tensor:
    """(total_len, dim) -> (num_chunks, chunk_len, dim); columns outside segments are 0."""
    chunks = sequence.new_zeros(plan.num_chunks, plan.chunk_len, sequence.shape[1])
    for chunk, col, start, length in plan.segments[:, :4].tolist():
        chunks[chunk, col : col + length] = sequence[start : start + length]
    return chunks


def key_positions(batch: int, seqlen_q: int, seqlen_k: int, layout: Layout, device: torch.device) -> Tensor:
    """Position p of each query among the keys: (B, Sq) int64."""
    offset = seqlen_k - seqlen_q if layout.offset is None else layout.offset
    if isinstance(offset, Tensor):
        offset = offset.to(device=device, dtype=torch.int64).reshape(-1, 1)
    return (torch.arange(seqlen_q, device=device) + offset).expand(batch, seqlen_q)


def visible_keys(p: Tensor, seqlen_k: int, window_size: tuple[int, int], layout: Layout) -> Tensor:
    """Which keys each query sees: p (B, Sq) int64 -> (B, Sq, Sk) bool."""
    left, right = window_size
    j = torch.arange(seqlen_k, device=p.device)
    row, p = p, p[:, :, None]
    start = torch.zeros_like(row[:, :1, None]) if layout.kv_start is None else layout.kv_start[:, None, None]
    seen = j >= start
    if layout.kv_end is not None:
        seen = seen & (j < layout.kv_end[:, None, None])
    if layout.kv_mask is not None:
        seen = seen & layout.kv_mask[:, None, :]
    if layout.segment_ids is not None:
        ids = layout.segment_ids
        inside = (row >= 0) & (row < seqlen_k)
        own = torch.gather(ids, 1, row.clamp(0, max(seqlen_k - 1, 0))) if seqlen_k else row
        seen = seen & inside[:, :, None] & (own[:, :, None] == ids[:, None, :])
        if layout.sink_tokens and seqlen_k:
            names, number = torch.unique(ids, return_inverse=True)
            first = torch.full((len(ids), len(names)), seqlen_k, device=p.device)
            first = first.scatter_reduce(1, number, j.expand_as(number), "amin")
            start = torch.maximum(start, first.gather(1, number)[:, None, :])
    within_left = (p - j <= left) if left >= 0 else torch.ones_like(j >= p)
    within_right = (j - p <= right) if right >= 0 else torch.ones_like(within_left)
    seen = seen & (within_left | (j - start < layout.sink_tokens)) & within_right
    if layout.chunk:
        origin = layout.chunk_origin
        origin = origin.reshape(-1, 1, 1) if isinstance(origin, Tensor) else origin
        seen = seen & ((j - origin) // layout.chunk == (p - origin) // layout.chunk)
    return seen


def attention_scores(
    q: Tensor, k: Tensor, p: Tensor, softmax_scale: float, score: Score
) -> tuple[Tensor, Tensor | None]:
    """Scores of all keys (B, Hq, Sq, Sk), and the softcap's tanh, which its backward needs, or None."""
    group = q.shape[2] // k.shape[2]
    finite, bad = finite_rows(k)
    s = torch.einsum("bmhd,bnhd->bhmn", q, finite.repeat_interleave(group, dim=2)) * softmax_scale
    s = torch.where(bad.transpose(1, 2).repeat_interleave(group, dim=1)[:, :, None, :], torch.nan, s)
    capped = None
    if score.softcap:
        capped = torch.tanh(s / score.softcap)
        s = score.softcap * capped
    if score.rel_bias is not None:
        s = s + score.rel_bias.to(s.dtype)[:, bias_columns(p, k.shape[1], score)].transpose(0, 1)
    return s, capped


def bias_columns(p: Tensor, seqlen_k: int, score: Score) -> Tensor:
    """Column of rel_bias for each query and key: (B, Sq, Sk) int64."""
    distance = torch.arange(seqlen_k, device=p.device) - p[:, :, None]
    return (distance + score.bias_center).clamp(0, score.rel_bias.shape[1] - 1)


def finite_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., D) with rows that hold inf or NaN set to 0, and which rows those are (...)."""
    bad = ~torch.isfinite(x).all(-1)
    return torch.where(bad[..., None], 0, x), bad


def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window_size: tuple[int, int] = (-1, -1),
    softmax_scale: float | None = None,
    layout: Layout | None = None,
    score: Score | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """out (B, Sq, Hq, Dv) and lse (B, Hq, Sq). A row that sees no key: out 0, lse -inf (or its sink).

    An inf or NaN in a visible key or value makes the rows that see it NaN; it reaches no other row. (A
    kernel may give a score of -inf the weight 0, and let a NaN reach the rows that share its tile.)
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    options = AttentionOptions(window_size, scale, layout or Layout(), score or Score(), dropout_p, seed)
    return attend(q, k, v, options)


def attend(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    """windowed_attention with its options grouped."""
    q_c, k_c, v_c = (x.to(compute_dtype(q.dtype)) for x in (q, k, v))
    out = q_c.new_zeros(*q.shape[:3], v.shape[3])
    lse = q_c.new_full((q.shape[0], q.shape[2], q.shape[1]), -torch.inf)
    for first_batch, rows, keys, local in attention_pieces(options, q.shape[1], k.shape[1]):
        piece = _dense(q_c[:, rows], k_c[:, keys], v_c[:, keys], local, first_batch)
        out[:, rows], lse[:, :, rows] = piece
    return out.to(q.dtype), lse


def attention_pieces(
    options: AttentionOptions, total_q: int, total_k: int
) -> Iterator[tuple[int, slice, slice, AttentionOptions]]:
    """The whole input, or each segment of packed input: index, rows of q, rows of k, options."""
    layout = options.layout
    if layout.cu_seqlens_q is None:
        yield 0, slice(None), slice(None), options
        return
    bounds = check_packed_bounds(layout, total_q, total_k)
    sides = [[slice(begin, end) for begin, end in pairwise(side)] for side in bounds]
    for b, (rows, keys) in enumerate(zip(*sides, strict=True)):
        yield b, rows, keys, options._replace(layout=_segment_layout(layout, b, keys))


def _segment_layout(layout: Layout, b: int, keys: slice) -> Layout:
    """The layout of segment b of a packed batch, as a batch of one."""

    def of_segment(x: int | Tensor | None) -> int | Tensor | None:
        return x[b : b + 1] if isinstance(x, Tensor) and x.dim() else x

    return replace(
        layout,
        offset=of_segment(layout.offset),
        kv_start=of_segment(layout.kv_start),
        kv_end=of_segment(layout.kv_end),
        kv_mask=None if layout.kv_mask is None else layout.kv_mask[:, keys],
        chunk_origin=of_segment(layout.chunk_origin),
        cu_seqlens_q=None,
        cu_seqlens_k=None,
    )


def _dense(
    q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions, first_batch: int
) -> tuple[Tensor, Tensor]:
    window_size, softmax_scale, layout, score, dropout_p, seed = options
    p = key_positions(q.shape[0], q.shape[1], k.shape[1], layout, q.device)
    seen = visible_keys(p, k.shape[1], window_size, layout)[:, None]
    s = attention_scores(q, k, p, softmax_scale, score)[0].masked_fill(~seen, -torch.inf)
    row_max = s.detach().amax(-1, keepdim=True) if s.shape[-1] else s.new_full((*s.shape[:3], 1), -torch.inf)
    if score.sink_logits is not None:
        sink = score.sink_logits.to(s.dtype)[:, None, None]
        row_max = torch.maximum(row_max, sink.detach())
    row_max = torch.where(row_max == -torch.inf, 0, row_max)
    e = torch.exp(s - row_max)
    denominator = e.sum(-1, keepdim=True)
    if score.sink_logits is not None:
        denominator = denominator + torch.exp(sink - row_max)
    empty = denominator == 0
    safe = torch.where(empty, 1, denominator)
    probs = e / safe
    if dropout_p:
        keep = dropout_keep(seed, dropout_p, p, q.shape[2], k.shape[1], first_batch)
        probs = probs * keep / (1 - dropout_p)
    values, bad = finite_rows(v)
    group = q.shape[2] // v.shape[2]
    out = torch.einsum("bhmn,bnhd->bmhd", probs, values.repeat_interleave(group, dim=2))
    poisoned = (seen & bad.transpose(1, 2).repeat_interleave(group, dim=1)[:, :, None, :]).any(-1)
    out = torch.where(poisoned.transpose(1, 2)[..., None], torch.nan, out)
    return out, torch.where(empty, -torch.inf, row_max + torch.log(safe)).squeeze(-1)


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan | PlanArgs,
    weights: str | Tensor = "triangular",
    *,
    extra: ExtraTokens | None = None,
    softmax_scale: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """overlap_split, attention within each chunk, overlap_merge; and the output of the extra tokens, or None.

    q, k, v are (total_len, heads, head_dim). Columns outside the plan's segments are invisible; a position
    that a chunk has in two columns is two keys.
    """
    dtype = compute_dtype(q.dtype)
    q_c, k_c, v_c = (overlap_split(x.to(dtype).flatten(1), plan).unflatten(2, x.shape[1:]) for x in (q, k, v))
    seen = overlap_split(q.new_ones(plan.total_len, 1, dtype=torch.bool), plan)[:, :, 0]
    if extra is not None:
        columns = zip((q_c, k_c, v_c), extra.tensors(), strict=True)
        q_c, k_c, v_c = (torch.cat([x, x_extra.to(dtype)], dim=1) for x, x_extra in columns)
        seen = torch.cat([seen, seen.new_ones(extra.q.shape[:2])], dim=1)
    layout = Layout(kv_mask=seen)
    outs, _ = windowed_attention(q_c, k_c, v_c, softmax_scale=softmax_scale, layout=layout)
    outs, extra_out = outs[:, : plan.chunk_len], outs[:, plan.chunk_len :]
    out = overlap_merge(outs.flatten(2), plan, weights).unflatten(1, outs.shape[2:])
    return out.to(q.dtype), None if extra is None else extra_out.to(q.dtype)


def merge_attention_states(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Attention over the union of disjoint key sets from each set's out (B, Sq, H, Dv) and lse (B, H, Sq).

    `w_i = exp(lse_i - lse)`, `lse = logsumexp_i lse_i`, `out = sum_i w_i out_i`; all -inf gives 0 and -inf.
    """
    dtype = compute_dtype(outs[0].dtype)
    weights, lse = state_weights(torch.stack([x.to(dtype) for x in lses]))
    weights = weights.transpose(-1, -2)[..., None]
    out = sum(torch.where(w == 0, 0, w * x.to(dtype)) for w, x in zip(weights, outs, strict=True))
    return out.to(outs[0].dtype).contiguous(), lse


def state_weights(lses: Tensor) -> tuple[Tensor, Tensor]:
    """`w_i = exp(lse_i - lse)` of lses (num_states, ...), and lse (...); where all are -inf: 0 and -inf."""
    row_max = lses.detach().amax(0)
    row_max = torch.where(row_max == -torch.inf, 0, row_max)
    e = torch.exp(lses - row_max)
    denominator = e.sum(0)
    empty = denominator == 0
    safe = torch.where(empty, 1, denominator)
    return e / safe, torch.where(empty, -torch.inf, row_max + torch.log(safe))
