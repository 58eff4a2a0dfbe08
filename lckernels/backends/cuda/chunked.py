"""chunked_attention in CUDA."""

import torch
from torch import Tensor

from lckernels.backends.cuda.library import aligned_rows
from lckernels.backends.cuda.overlap import overlap_merge_backward
from lckernels.backends.shared.chunk_tables import segments_by_chunk
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
    out = q.new_empty(*q.shape[:2], v.shape[2])
    extra_out = None if extra is None else q.new_empty(*extra.q.shape[:3], v.shape[2])
    arguments = _arguments(q, k, v, extra, weights, plan)
    torch.ops.lckernels_cuda.chunked_forward(*arguments, softmax_scale, out, extra_out)
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
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    dextra = [None] * 3 if extra is None else [x.new_zeros(x.shape) for x in extra.tensors()]
    num_rows = plan.chunk_len + (0 if extra is None else extra.q.shape[1])
    tables = q.new_zeros(2, plan.num_chunks, q.shape[1], num_rows, dtype=torch.float32)
    douts = (aligned_rows(dout), None if dextra_out is None else aligned_rows(dextra_out))
    arguments = _arguments(q, k, v, extra, weights, plan)
    torch.ops.lckernels_cuda.chunked_backward(*douts, *arguments, softmax_scale, *grads, *dextra, *tables)
    dweights = None
    if isinstance(weights, Tensor):
        # row_dots are <dout, out_c> per column: dweights is the gradient of their merge.
        row_dots = tables[1, :, :, : plan.chunk_len].sum(1)
        ones = row_dots.new_ones(plan.total_len, 1)
        dweights = overlap_merge_backward(ones, row_dots[:, :, None], weights, plan)[1]
    return *grads, None if extra is None else ExtraTokens(*dextra), dweights


def _arguments(
    q: Tensor, k: Tensor, v: Tensor, extra: ExtraTokens | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor | None, ...]:
    extras = (None,) * 3 if extra is None else tuple(aligned_rows(x) for x in extra.tensors())
    by_chunk, bounds = segments_by_chunk(plan)
    ones = q.new_ones(plan.total_len, 1, dtype=torch.float32)
    merge_weights = overlap_merge_backward(ones, None, weights, plan)[0][:, :, 0].contiguous()
    inputs = (aligned_rows(x) for x in (q, k, v))
    return *inputs, *extras, plan.segments, plan.tile_segments, bounds, by_chunk.int(), merge_weights
