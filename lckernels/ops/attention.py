"""The op windowed_attention. Its options are flat arguments, listed in `fields`."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lckernels.backends.registry import Problem, choose
from lckernels.dtypes import compute_dtype
from lckernels.fields import INDEX, SCHEMA, FlatOptions
from lckernels.ops.registration import register

_WITH_GRADIENT = (INDEX["rel_bias"], INDEX["sink_logits"])


def _problem(q: Tensor, k: Tensor, v: Tensor, options: FlatOptions) -> Problem:
    seqlen_k = k.shape[1]
    if options.max_seqlen_k is not None:
        seqlen_k = min(options.max_seqlen_k, seqlen_k)
    scores = prod((q.shape[0], q.shape[2], q.shape[1], seqlen_k))
    score_bytes = scores * compute_dtype(q.dtype).itemsize
    shapes, segmented = (q.shape, k.shape, v.shape), options.segment_ids is not None
    return Problem("windowed_attention", q.device.type, q.dtype, shapes, score_bytes, segmented)


def _windowed_attention(q: Tensor, k: Tensor, v: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    options, backend = FlatOptions._make(arguments[:-1]), arguments[-1]
    chosen = choose(_problem(q, k, v, options), backend)
    return chosen.ops["windowed_attention"](q, k, v, options)


def _windowed_attention_fake(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    batch, seqlen_q, num_heads, _ = q.shape
    lse = q.new_empty(batch, num_heads, seqlen_q, dtype=compute_dtype(q.dtype))
    return q.new_empty(batch, seqlen_q, num_heads, v.shape[3]), lse


def _windowed_attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    options, backend = FlatOptions._make(arguments[:-1]), arguments[-1]
    chosen = choose(_problem(q, k, v, options), backend)
    *grads, dbias, dsink = chosen.ops["windowed_attention_backward"](dout, dlse, q, k, v, out, lse, options)
    return *grads, *(q.new_empty(0) if x is None else x for x in (dbias, dsink))


def _windowed_attention_backward_fake(
    dout: Tensor, dlse: Any, q: Tensor, k: Tensor, v: Tensor, out: Any, lse: Any, *options: Any
) -> tuple[Tensor, ...]:
    inputs = (q, k, v)
    parameters = (options[index] for index in _WITH_GRADIENT)
    return (
        *(x.new_empty(x.shape) for x in inputs),
        *(q.new_empty(0) if x is None else x.new_empty(x.shape) for x in parameters),
    )


class _WindowedAttention(torch.autograd.Function):
    """The gradient of windowed_attention."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            out, lse = windowed_attention(q, k, v, *options)
        ctx.is_tensor = [isinstance(x, Tensor) for x in options]
        ctx.constants = [None if isinstance(x, Tensor) else x for x in options]
        ctx.save_for_backward(q, k, v, out, lse, *(x for x in options if isinstance(x, Tensor)))
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
        q, k, v, out, lse, *tensors = ctx.saved_tensors
        remaining = iter(tensors)
        options = [next(remaining) if t else c for t, c in zip(ctx.is_tensor, ctx.constants, strict=True)]
        dout = torch.zeros_like(out) if dout is None else dout
        dq, dk, dv, *dparameters = windowed_attention_backward(dout, dlse, q, k, v, out, lse, *options)
        grads: list[Tensor | None] = [None] * len(options)
        for index, dparameter in zip(_WITH_GRADIENT, dparameters, strict=True):
            if ctx.needs_input_grad[3 + index]:
                grads[index] = dparameter
        return dq, dk, dv, *grads


windowed_attention = register(
    "windowed_attention",
    f"(Tensor q, Tensor k, Tensor v, {SCHEMA}, str? backend) -> (Tensor out, Tensor lse)",
    _windowed_attention,
    _windowed_attention_fake,
    apply=_WindowedAttention.apply,
    num_autocast=3,
)
windowed_attention_backward = register(
    "windowed_attention_backward",
    "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{SCHEMA}, str? backend) -> (Tensor dq, Tensor dk, Tensor dv, Tensor drel_bias, Tensor dsink_logits)",
    _windowed_attention_backward,
    _windowed_attention_backward_fake,
)
