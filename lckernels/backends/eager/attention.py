"""windowed_attention and merge_attention_states: the reference, and explicit gradients."""

import torch
from torch import Tensor

from lckernels import reference
from lckernels.backends.shared.sink_gradient import sink_gradient
from lckernels.dtypes import compute_dtype
from lckernels.fields import FlatOptions, grouped_options
from lckernels.options import AttentionOptions
from lckernels.philox import dropout_keep


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, options: FlatOptions) -> tuple[Tensor, Tensor]:
    return reference.attend(q, k, v, grouped_options(options))


def windowed_attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: FlatOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv, drel_bias, dsink_logits; the last two None where the score has no such part."""
    dtype, grouped = compute_dtype(q.dtype), grouped_options(options)
    dout, q_c, k_c, v_c, out = (x.to(dtype) for x in (dout, q, k, v, out))
    delta = (dout * out).sum(-1).transpose(1, 2)
    delta = delta if dlse is None else delta - dlse
    dq, dk, dv = (x.new_zeros(x.shape) for x in (q_c, k_c, v_c))
    rel_bias, sink_logits = options.rel_bias, options.sink_logits
    dbias = None if rel_bias is None else rel_bias.new_zeros(rel_bias.shape, dtype=dtype)
    for first_batch, rows, keys, local in reference.attention_pieces(grouped, q.shape[1], k.shape[1]):
        piece = (dout[:, rows], delta[:, :, rows], q_c[:, rows], k_c[:, keys], v_c[:, keys], lse[:, :, rows])
        dq[:, rows], dk[:, keys], dv[:, keys], dbias_b = dense_backward(*piece, local, first_batch)
        dbias = dbias if dbias_b is None else dbias + dbias_b
    dsink = None
    if sink_logits is not None:
        dsink = sink_gradient(sink_logits, lse, delta)
    dbias = None if dbias is None else dbias.to(rel_bias.dtype)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbias, dsink


def dense_backward(
    dout: Tensor,
    delta: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    options: AttentionOptions,
    first_batch: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dq, dk, dv, drel_bias of one piece in its compute dtype; delta = <dout, out> - dlse, as lse."""
    window_size, softmax_scale, layout, score, dropout_p, seed = options
    batch, seqlen_q, num_heads, _ = q.shape
    seqlen_k, num_kv_heads = k.shape[1:3]
    group = num_heads // num_kv_heads
    p = reference.key_positions(batch, seqlen_q, seqlen_k, layout, q.device)
    seen = reference.visible_keys(p, seqlen_k, window_size, layout)[:, None]
    s, capped = reference.attention_scores(q, k, p, softmax_scale, score)
    probs = torch.where(seen & (lse != -torch.inf)[..., None], torch.exp(s - lse[..., None]), 0)
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
        per_head = ds.transpose(0, 1).flatten(1)
        dbias = torch.zeros(score.rel_bias.shape, dtype=q.dtype, device=q.device)
        dbias.scatter_add_(1, columns.transpose(0, 1).flatten(1), per_head)
    if capped is not None:
        ds = torch.where(seen, ds * (1 - capped * capped), 0)
    ds = ds * softmax_scale
    dq = torch.einsum("bhmn,bnhd->bmhd", ds, keys)
    # inf and NaN of a query's row reach only the keys that it sees, through ds and probs.
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
    dtype = compute_dtype(out.dtype)
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
