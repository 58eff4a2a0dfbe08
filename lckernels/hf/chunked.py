"""Attention of a layer whose chunks are merged after it."""

import torch
from torch import Tensor

from lckernels.functional import chunked_attention, overlap_merge, overlap_split, windowed_attention
from lckernels.hf.masks.chunk_mask import ChunkMask
from lckernels.options import ExtraTokens, Layout


def attention_in_chunks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: ChunkMask,
    dropout: float,
    scaling: float | None,
    backend: str | None,
) -> Tensor:
    """The layer's output, (1, seqlen, num_heads, head_dim_v); arguments as of `attention`."""
    (q, k, v), extra = mask.inputs(query, key, value)
    if dropout:
        out, extra_out = _with_dropout(q, k, v, extra, mask, dropout, scaling, backend)
    else:
        result = chunked_attention(
            q, k, v, mask.plan, mask.weights, extra=extra, softmax_scale=scaling, backend=backend
        )
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
    backend: str | None,
) -> tuple[Tensor, Tensor | None]:
    """chunked_attention step by step, with dropout, which the op does not support."""
    plan = mask.plan
    columns = [
        overlap_split(x.flatten(1), plan, backend=backend).unflatten(2, x.shape[1:]) for x in (q, k, v)
    ]
    valid = overlap_split(q.new_ones(plan.total_len, 1), plan, backend=backend)[:, :, 0] > 0
    if extra is not None:
        pairs = zip(columns, extra.tensors(), strict=True)
        columns = [torch.cat(pair, dim=1) for pair in pairs]
        valid = torch.cat([valid, valid.new_ones(extra.q.shape[:2])], dim=1)
    outs = windowed_attention(
        *columns, softmax_scale=scaling, layout=Layout(kv_mask=valid), dropout_p=dropout, backend=backend
    )
    out = overlap_merge(outs[:, : plan.chunk_len].flatten(2), plan, mask.weights, backend=backend)
    return out.unflatten(1, outs.shape[2:]), None if extra is None else outs[:, plan.chunk_len :]
