"""The attention function of transformers' AttentionInterface that runs on lckernels."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lckernels.functional import chunked_attention, overlap_merge, overlap_split, windowed_attention
from lckernels.hf.mask import ChunkMask, KeyMask, NotServed, make_mask
from lckernels.options import ExtraTokens, Layout

# Without flash, sdpa or a slash in it: transformers reads meaning into such names.
NAME = "lckernels"
# What changes the result and torch's attention would leave out.
_NOT_SERVED = ("softcap", "s_aux", "sinks", "indices", "block_indices", "cu_seq_lens_q", "cu_seq_lens_k")


def register() -> None:
    """Makes `attn_implementation="lckernels"` known to transformers; no model changes by itself."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, make_mask)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers calls it.

    query (batch, num_heads, seqlen_q, head_dim), key and value (batch, num_kv_heads, seqlen_k, ...), views of
    any strides; the result is (batch, seqlen_q, num_heads, head_dim_v), contiguous.

    A KeyMask runs as windowed_attention, a ChunkMask as chunked_attention; any other mask, and position_bias,
    as torch's dense attention. Raises NotServed for options that would change the result and are not served.
    """
    check_call(attention_mask, options)
    if isinstance(attention_mask, ChunkMask):
        return _chunked(query, key, value, attention_mask, dropout, scaling), None
    if isinstance(attention_mask, KeyMask) and not is_biased(options):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        layout = attention_mask.where
        return windowed_attention(q, k, v, softmax_scale=scaling, layout=layout, dropout_p=dropout), None
    if isinstance(attention_mask, KeyMask):
        attention_mask = attention_mask.dense()
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
    )


def check_call(attention_mask: Tensor | None, options: dict[str, Any]) -> None:
    """Raises NotServed for options that would change the result and are not served, TypeError for a bias
    where chunks are merged in each layer."""
    for name in _NOT_SERVED:
        if options.get(name) is not None:
            got = type(options[name]).__name__
            raise NotServed(f"{name}: got {got}; attn_implementation={NAME!r} does not serve it yet")
    if isinstance(attention_mask, ChunkMask) and is_biased(options):
        raise TypeError("model: it adds a relative position bias; merge='layer' needs absolute positions")


def is_biased(options: dict[str, Any]) -> bool:
    """Whether the model adds something to its scores, which only torch's dense attention does here."""
    return options.get("position_bias") is not None


def _chunked(
    query: Tensor, key: Tensor, value: Tensor, mask: ChunkMask, dropout: float, scaling: float | None
) -> Tensor:
    """(1, seqlen, num_heads, head_dim_v)."""
    (q, k, v), extra = mask.inputs(query, key, value)
    if dropout:
        out, extra_out = _with_dropout(q, k, v, extra, mask, dropout, scaling)
    else:
        result = chunked_attention(q, k, v, mask.plan, mask.weights, extra=extra, softmax_scale=scaling)
        out, extra_out = (result, None) if extra is None else result
    mask.on_layer()
    return (out if extra_out is None else torch.cat([out, extra_out.flatten(0, 1)]))[None]


def _with_dropout(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    mask: ChunkMask,
    dropout: float,
    scaling: float | None,
) -> tuple[Tensor, Tensor | None]:
    """chunked_attention with dropout, which the op has not: its definition, step by step."""
    plan = mask.plan
    columns = [overlap_split(x.flatten(1), plan).unflatten(2, x.shape[1:]) for x in (q, k, v)]
    seen = overlap_split(q.new_ones(plan.total_len, 1), plan)[:, :, 0] > 0
    if extra is not None:
        pairs = zip(columns, extra.tensors(), strict=True)
        columns = [torch.cat(pair, dim=1) for pair in pairs]
        seen = torch.cat([seen, seen.new_ones(extra.q.shape[:2])], dim=1)
    outs = windowed_attention(*columns, softmax_scale=scaling, layout=Layout(kv_mask=seen), dropout_p=dropout)
    out = overlap_merge(outs[:, : plan.chunk_len].flatten(2), plan, mask.weights)
    return out.unflatten(1, outs.shape[2:]), None if extra is None else outs[:, plan.chunk_len :]
