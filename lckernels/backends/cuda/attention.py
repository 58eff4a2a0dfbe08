"""windowed_attention in CUDA."""

import math

import torch
from torch import Tensor

from lckernels.backends.cuda.library import aligned_rows
from lckernels.backends.shared.compiled_arguments import attention_arguments
from lckernels.backends.shared.sink_gradient import sink_gradient
from lckernels.fields import FlatOptions


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, options: FlatOptions) -> tuple[Tensor, Tensor]:
    shape, rows = (*q.shape[:3], v.shape[3]), (q.shape[0], q.shape[2], q.shape[1])
    if options.cu_seqlens_q is None:
        out, lse = q.new_empty(shape), q.new_empty(rows, dtype=torch.float32)
    else:  # rows may belong to no sequence
        out, lse = q.new_zeros(shape), q.new_full(rows, -math.inf, dtype=torch.float32)
    inputs = (aligned_rows(x) for x in (q, k, v))
    torch.ops.lckernels_cuda.attention_forward(
        *inputs, *attention_arguments(options, torch.float32), out, lse
    )
    return out, lse


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
    packed, rel_bias, sink_logits = options.cu_seqlens_q, options.rel_bias, options.sink_logits
    make = torch.Tensor.new_empty if packed is None else torch.Tensor.new_zeros
    grads = [make(x, x.shape) for x in (q, k, v)]
    lse = lse.contiguous()
    delta, strips = torch.empty_like(lse), None
    if rel_bias is not None:
        num_heads, bias_len = rel_bias.shape
        count = torch.ops.lckernels_cuda.bias_strips(q, packed)
        strips = q.new_zeros(q.shape[0], num_heads, count, bias_len, dtype=torch.float32)
    torch.ops.lckernels_cuda.attention_backward(
        aligned_rows(dout),
        None if dlse is None else dlse.contiguous(),
        *(aligned_rows(x) for x in (q, k, v, out)),
        lse,
        *attention_arguments(options, torch.float32),
        *grads,
        delta,
        strips,
    )
    dbias = None if strips is None else strips.sum((0, 2)).to(rel_bias.dtype)
    dsink = None if sink_logits is None else sink_gradient(sink_logits, lse, delta)
    return *grads, dbias, dsink
