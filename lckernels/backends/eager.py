"""The reference as a backend: every device, every feature, memory that grows with seqlen_q * seqlen_k."""

import torch
from torch import Tensor

from lckernels import reference
from lckernels.checks import weights_error
from lckernels.dispatch import Problem
from lckernels.options import AttentionOptions
from lckernels.philox import dropout_keep
from lckernels.plan import PlanArgs

MAX_FALLBACK_SCORE_BYTES = 2 * 2**30


def unavailable() -> str:
    """Why this backend cannot run here; empty when it can."""
    return ""


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem when it is not asked for by name; empty when it can."""
    if problem.score_bytes > MAX_FALLBACK_SCORE_BYTES and not problem.explicit:
        size = problem.score_bytes / 2**30
        limit = f"over the limit of {MAX_FALLBACK_SCORE_BYTES // 2**30} GiB for a fallback"
        return [f"its scores need {size:.1f} GiB, {limit} (backend='eager' forces it)"]
    return []


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    if isinstance(weights, Tensor) and weights.device.type == "cpu":
        _check_weights(weights, plan)
    return reference.overlap_merge(chunks, plan, weights)


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    dtype = reference.compute_dtype(dout.dtype)
    rows = plan.segments.tolist()
    shares = [reference.segment_weights(row, weights, dtype).to(dout.device) for row in rows]
    weight_sum = _overlap_add(shares, rows, dout.new_zeros(plan.total_len, dtype=dtype))
    safe = torch.where(weight_sum > 0, weight_sum, 1)
    dchunks = dout.new_zeros(plan.num_chunks, plan.chunk_len, dout.shape[1])
    for (chunk, col, start, length, *_), a in zip(rows, shares, strict=True):
        span = slice(start, start + length)
        share = torch.where(weight_sum[span] > 0, a / safe[span], 0)[:, None]
        dchunks[chunk, col : col + length] = torch.where(share > 0, share * dout[span], 0).to(dout.dtype)
    if chunks is None:
        return dchunks, None
    dots = [
        (dout[start : start + length].to(dtype) * chunks[chunk, col : col + length].to(dtype)).sum(1)
        for chunk, col, start, length, *_ in rows
    ]
    weighted = [torch.where(a > 0, a * dot, 0) for a, dot in zip(shares, dots, strict=True)]
    mean = _overlap_add(weighted, rows, torch.zeros_like(weight_sum)) / safe
    dweights = weights.new_zeros(weights.shape)
    for (chunk, col, start, length, *_), a, dot in zip(rows, shares, dots, strict=True):
        span = slice(start, start + length)
        read = (a > 0) | torch.isfinite(dot)
        gradient = torch.where(read & (weight_sum[span] > 0), (dot - mean[span]) / safe[span], 0)
        dweights[chunk, col : col + length] = gradient.to(weights.dtype)
    return dchunks, dweights


def _check_weights(weights: Tensor, plan: PlanArgs) -> None:
    rows = plan.segments.tolist()
    pieces = [weights[chunk, col : col + length] for chunk, col, _, length, *_ in rows]
    wrong = [(~((piece >= 0) & (piece < torch.inf))).float() for piece in pieces]
    bad = _overlap_add(wrong, rows, torch.zeros(plan.total_len)) > 0
    weight_sum = _overlap_add(pieces, rows, weights.new_zeros(plan.total_len))
    bad |= ~((weight_sum > 0) & (weight_sum < torch.inf))
    if bad.any():
        raise weights_error(int(bad.nonzero()[0]))


def _overlap_add(pieces: list[Tensor], rows: list[list[int]], out: Tensor) -> Tensor:
    for (_, _, start, length, *_), piece in zip(rows, pieces, strict=True):
        out[start : start + length] += piece
    return out


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return reference.overlap_split(sequence, plan)


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    rows = plan.segments.tolist()
    dtype = reference.compute_dtype(dchunks.dtype)
    pieces = [dchunks[chunk, col : col + length].to(dtype) for chunk, col, _, length, *_ in rows]
    total = dchunks.new_zeros(plan.total_len, dchunks.shape[2], dtype=dtype)
    return _overlap_add(pieces, rows, total).to(dchunks.dtype)


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions) -> tuple[Tensor, Tensor]:
    return reference.attend(q, k, v, options)


def windowed_attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv, drel_bias, dsink_logits; the last two None where the score has no such part."""
    dtype, score = reference.compute_dtype(q.dtype), options.score
    dout, q_c, k_c, v_c, out = (x.to(dtype) for x in (dout, q, k, v, out))
    delta = (dout * out).sum(-1).transpose(1, 2)
    delta = delta if dlse is None else delta - dlse
    dq, dk, dv = (x.new_zeros(x.shape) for x in (q_c, k_c, v_c))
    dbias = None if score.rel_bias is None else score.rel_bias.new_zeros(score.rel_bias.shape, dtype=dtype)
    for first_batch, rows, keys, local in reference.attention_pieces(options, q.shape[1], k.shape[1]):
        piece = (dout[:, rows], delta[:, :, rows], q_c[:, rows], k_c[:, keys], v_c[:, keys], lse[:, :, rows])
        dq[:, rows], dk[:, keys], dv[:, keys], dbias_b = _dense_backward(*piece, local, first_batch)
        dbias = dbias if dbias_b is None else dbias + dbias_b
    dsink = None
    if score.sink_logits is not None:
        share = torch.exp(score.sink_logits.to(dtype)[:, None] - lse)
        dsink = torch.where(lse == -torch.inf, 0, -share * delta).sum((0, 2)).to(score.sink_logits.dtype)
    dbias = None if dbias is None else dbias.to(score.rel_bias.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbias, dsink


def _dense_backward(
    dout: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    options: AttentionOptions,
    first_batch: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    window_size, softmax_scale, layout, score, dropout_p, seed = options
    batch, seqlen_q, num_heads, _ = q.shape
    seqlen_k, num_kv_heads = k.shape[1:3]
    group = num_heads // num_kv_heads
    p = reference.key_positions(batch, seqlen_q, seqlen_k, layout, q.device)
    seen = reference.visible_keys(p, seqlen_k, window_size, layout)[:, None]
    s, capped = reference.attention_scores(q, k, p, softmax_scale, score)
    probs = torch.where(seen & (lse > -torch.inf)[..., None], torch.exp(s - lse[..., None]), 0)
    keep_scale = torch.ones((), dtype=q.dtype, device=q.device)
    if dropout_p:
        keep = dropout_keep(seed, dropout_p, p, num_heads, seqlen_k, first_batch)
        keep_scale = keep.to(q.dtype) / (1 - dropout_p)
    keys = reference.finite_rows(k)[0].repeat_interleave(group, dim=2)
    values, bad = reference.finite_rows(v)
    dprobs = torch.einsum("bmhd,bnhd->bhmn", dout, values.repeat_interleave(group, dim=2))
    bad = bad.transpose(1, 2).repeat_interleave(group, dim=1)[:, :, None, :]
    dprobs = torch.where(bad, torch.nan, dprobs) * keep_scale
    ds = torch.where(seen, probs * (dprobs - delta[..., None]), 0)
    dbias = None
    if score.rel_bias is not None:
        columns = reference.bias_columns(p, seqlen_k, score)[:, None].expand_as(ds)
        per_head = ds.transpose(0, 1).reshape(num_heads, -1)
        dbias = torch.zeros(score.rel_bias.shape, dtype=q.dtype, device=q.device)
        dbias.scatter_add_(1, columns.transpose(0, 1).reshape(num_heads, -1), per_head)
    if capped is not None:
        ds = torch.where(seen, ds * (1 - capped * capped), 0)
    ds = ds * softmax_scale
    dq = torch.einsum("bhmn,bnhd->bmhd", ds, keys)
    # A row that is not finite reaches the keys that it sees, through ds and probs, and no other.
    queries, (douts, bad) = reference.finite_rows(q)[0], reference.finite_rows(dout)
    probs = torch.where(seen & bad.transpose(1, 2)[..., None], torch.nan, probs * keep_scale)
    dk = torch.einsum("bhmn,bmhd->bnhd", ds, queries).unflatten(2, (num_kv_heads, group)).sum(3)
    dv = torch.einsum("bhmn,bmhd->bnhd", probs, douts).unflatten(2, (num_kv_heads, group)).sum(3)
    return dq, dk, dv, dbias


def merge_attention_states(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    return reference.merge_attention_states(outs, lses)


def merge_attention_states_backward(
    dout: Tensor | None, dlse: Tensor | None, outs: list[Tensor], lses: list[Tensor], out: Tensor, lse: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """`dout_i = w_i dout`, `dlse_i = w_i (<dout, out_i - out> + dlse)`."""
    dtype = reference.compute_dtype(out.dtype)
    dout = torch.zeros_like(out) if dout is None else dout
    dout, out = dout.to(dtype), out.to(dtype)
    douts, dlses = [], []
    for out_i, lse_i in zip(outs, lses, strict=True):
        weight = torch.where(lse == -torch.inf, 0, torch.exp(lse_i.to(dtype) - lse))
        rows = weight.transpose(1, 2)[..., None]
        douts.append(torch.where(rows == 0, 0, rows * dout).to(out_i.dtype).contiguous())
        dots = torch.where(rows == 0, 0, dout * (out_i.to(dtype) - out)).sum(-1).transpose(1, 2)
        dlses.append((weight * (dots if dlse is None else dots + dlse)).to(lse_i.dtype).contiguous())
    return douts, dlses
