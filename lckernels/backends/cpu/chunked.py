"""chunked_attention in C++."""

import torch
from torch import Tensor

from lckernels.backends.cpu.overlap import overlap_merge, overlap_merge_backward
from lckernels.backends.shared.tensor_rows import contiguous_rows
from lckernels.dtypes import compute_dtype
from lckernels.options import ExtraTokens
from lckernels.plan import PlanArgs


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
) -> tuple[Tensor, Tensor | None]:
    """out, and extra_out where there are extra tokens."""
    merge_weights = _merge_weights(weights, plan, compute_dtype(q.dtype))
    out = q.new_empty(*q.shape[:2], v.shape[2])
    extra_out = None if extra is None else q.new_empty(*extra.q.shape[:3], v.shape[2])
    inputs = (contiguous_rows(q), contiguous_rows(k), contiguous_rows(v), *_extra_rows(extra))
    torch.ops.lckernels_cpu.chunked_forward(
        *inputs, plan.segments, merge_weights, softmax_scale, out, extra_out
    )
    return out, extra_out


def chunked_attention_backward(
    dout: Tensor,
    dextra_out: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, ExtraTokens | None, Tensor | None]:
    """dq, dk, dv, dextra, dweights; the last two None where there are none."""
    merge_weights = _merge_weights(weights, plan, compute_dtype(q.dtype))
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    dextra = [None] * 3 if extra is None else [x.new_zeros(x.shape) for x in extra.tensors()]
    explicit = isinstance(weights, Tensor)
    row_dots = torch.empty_like(merge_weights) if explicit else None
    inputs = (contiguous_rows(q), contiguous_rows(k), contiguous_rows(v), *_extra_rows(extra))
    douts = (contiguous_rows(dout), None if dextra_out is None else contiguous_rows(dextra_out))
    torch.ops.lckernels_cpu.chunked_backward(
        *douts, *inputs, plan.segments, merge_weights, softmax_scale, *grads, *dextra, row_dots
    )
    dweights = None
    if explicit:
        # row_dots are <dout, out_c> per column: dweights is the gradient of their merge.
        ones = merge_weights.new_ones(plan.total_len, 1)
        dweights = overlap_merge_backward(ones, row_dots[:, :, None], weights, plan)[1]
    return *grads, None if extra is None else ExtraTokens(*dextra), dweights


def _merge_weights(weights: str | Tensor, plan: PlanArgs, dtype: torch.dtype) -> Tensor:
    """(num_chunks, chunk_len): the normalized weight of each column."""
    if isinstance(weights, Tensor):  # raises for unusable values
        overlap_merge(weights.new_zeros(plan.num_chunks, plan.chunk_len, 1, dtype=dtype), weights, plan)
    ones = torch.ones(plan.total_len, 1, dtype=dtype)
    return overlap_merge_backward(ones, None, weights, plan)[0][:, :, 0].contiguous()


def _extra_rows(extra: ExtraTokens | None) -> tuple[Tensor | None, ...]:
    return (None, None, None) if extra is None else tuple(contiguous_rows(x) for x in extra.tensors())
