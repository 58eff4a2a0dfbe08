"""windowed_attention and merge_attention_states in C++."""

import torch
from torch import Tensor

from lckernels.backends.shared.compiled_arguments import attention_arguments
from lckernels.backends.shared.tensor_rows import contiguous_rows
from lckernels.checks import check_packed_bounds
from lckernels.dtypes import compute_dtype
from lckernels.fields import FlatOptions, WindowOptions


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, options: FlatOptions) -> tuple[Tensor, Tensor]:
    ops = torch.ops.lckernels_cpu
    if type(options) is WindowOptions:
        left, right = options[0]
        return ops.window_forward(q, k, v, left, right, options[1], options[2])
    check_packed_bounds(options, q.shape[1], k.shape[1])
    return ops.attention_forward(*attention_arguments(options, compute_dtype(q.dtype)), q, k, v)


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
    acc = compute_dtype(q.dtype)
    check_packed_bounds(options, q.shape[1], k.shape[1])
    parameters = (options.rel_bias, options.sink_logits)
    dbias, dsink = (None if x is None else x.new_empty(x.shape, dtype=acc) for x in parameters)
    dlse = None if dlse is None else dlse.contiguous()
    inputs = (dout, dlse, q, k, v, out, lse.contiguous())
    grads = torch.ops.lckernels_cpu.attention_backward(
        *attention_arguments(options, acc), *inputs, dbias, dsink
    )
    dbias, dsink = (
        None if grad is None else grad.to(x.dtype) for grad, x in zip((dbias, dsink), parameters, strict=True)
    )
    return *grads, dbias, dsink


def merge_attention_states(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    out, lse = outs[0].new_empty(outs[0].shape), lses[0].new_empty(lses[0].shape)
    torch.ops.lckernels_cpu.merge_states([contiguous_rows(x) for x in outs], lses, out, lse)
    return out, lse


def merge_attention_states_backward(
    dout: Tensor | None, dlse: Tensor | None, outs: list[Tensor], lses: list[Tensor], out: Tensor, lse: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """douts and dlses; an absent gradient is expanded from one row of zeros."""
    dout = out.new_zeros(out.shape[-1]).expand(out.shape) if dout is None else contiguous_rows(dout)
    dlse = lse.new_zeros(()).expand(lse.shape) if dlse is None else dlse
    douts, dlses = ([x.new_empty(x.shape) for x in xs] for xs in (outs, lses))
    states = ([contiguous_rows(x) for x in outs], lses, contiguous_rows(out), lse)
    torch.ops.lckernels_cpu.merge_states_backward(dout, dlse, *states, douts, dlses)
    return douts, dlses
