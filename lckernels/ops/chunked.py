"""The op chunked_attention."""

from typing import Any

import torch
from torch import Tensor

from lckernels.backends.registry import Problem, choose
from lckernels.dtypes import compute_dtype
from lckernels.ops.registration import first_order, register
from lckernels.options import ExtraTokens
from lckernels.plan import PlanArgs

_INPUTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? extra_q, Tensor? extra_k, Tensor? extra_v, Tensor? weights, "
    "Tensor segments, Tensor tile_segments, SymInt num_chunks, SymInt chunk_len, str mode, "
    "float softmax_scale"
)
_NUM_TENSORS = _INPUTS.count("Tensor")  # the leading arguments
_NUM_WITH_GRADIENT = _NUM_TENSORS - 2  # all but segments and tile_segments


def _problem(q: Tensor, k: Tensor, v: Tensor, extra_q: Tensor | None, chunk_len: int) -> Problem:
    """score_bytes is that of one chunk: the eager backend materialises no more at once."""
    num_rows = chunk_len + (0 if extra_q is None else extra_q.shape[1])
    score_bytes = q.shape[1] * num_rows**2 * compute_dtype(q.dtype).itemsize
    return Problem("chunked_attention", q.device.type, q.dtype, (q.shape, k.shape, v.shape), score_bytes)


def _extra(q: Tensor | None, k: Tensor | None, v: Tensor | None) -> ExtraTokens | None:
    return None if q is None else ExtraTokens(q, k, v)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_q: Tensor | None,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    weights: Tensor | None,
    segments: Tensor,
    tile_segments: Tensor,
    num_chunks: int,
    chunk_len: int,
    mode: str,
    softmax_scale: float,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    plan = PlanArgs(segments, tile_segments, num_chunks, chunk_len, q.shape[0])
    chosen = choose(_problem(q, k, v, extra_q, chunk_len), backend)
    extra = _extra(extra_q, extra_k, extra_v)
    out, extra_out = chosen.ops["chunked_attention"](
        q, k, v, extra, mode if weights is None else weights, plan, softmax_scale
    )
    return out, q.new_empty(0) if extra_out is None else extra_out


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, extra_q: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    out = q.new_empty(*q.shape[:2], v.shape[2])
    return out, q.new_empty(0) if extra_q is None else q.new_empty(*extra_q.shape[:3], v.shape[2])


def _backward(
    dout: Tensor,
    dextra_out: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_q: Tensor | None,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
    weights: Tensor | None,
    segments: Tensor,
    tile_segments: Tensor,
    num_chunks: int,
    chunk_len: int,
    mode: str,
    softmax_scale: float,
    out: Tensor,
    backend: str | None,
) -> tuple[Tensor, ...]:
    plan = PlanArgs(segments, tile_segments, num_chunks, chunk_len, q.shape[0])
    chosen = choose(_problem(q, k, v, extra_q, chunk_len), backend)
    extra = _extra(extra_q, extra_k, extra_v)
    *grads, dextra, dweights = chosen.ops["chunked_attention_backward"](
        dout, dextra_out, q, k, v, extra, mode if weights is None else weights, plan, softmax_scale, out
    )
    dextra = (q.new_empty(0) for _ in range(3)) if dextra is None else dextra.tensors()
    return *grads, *dextra, q.new_empty(0) if dweights is None else dweights


def _backward_fake(dout: Tensor, dextra_out: Any, *inputs: Any) -> tuple[Tensor, ...]:
    q = inputs[0]
    return tuple(q.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs[:_NUM_WITH_GRADIENT])


class _ChunkedAttention(torch.autograd.Function):
    """The gradient of chunked_attention."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            out, extra_out = chunked_attention(*args)
        *numbers, ctx.backend = args[_NUM_TENSORS:]
        ctx.save_for_backward(*args[:_NUM_TENSORS], out)
        ctx.numbers = numbers
        ctx.set_materialize_grads(False)
        if args[3] is None:
            ctx.mark_non_differentiable(extra_out)
        return out, extra_out

    @staticmethod
    @first_order("chunked_attention")
    def backward(ctx: Any, dout: Tensor | None, dextra_out: Tensor | None) -> tuple:
        *inputs, out = ctx.saved_tensors
        dout = torch.zeros_like(out) if dout is None else dout
        grads = chunked_attention_backward(dout, dextra_out, *inputs, *ctx.numbers, out, ctx.backend)
        needed = ctx.needs_input_grad
        grads = [dx if need else None for dx, need in zip(grads, needed, strict=False)]
        return *grads, *(None,) * (len(needed) - len(grads))


chunked_attention = register(
    "chunked_attention",
    f"({_INPUTS}, str? backend) -> (Tensor out, Tensor extra_out)",
    _forward,
    _forward_fake,
    apply=_ChunkedAttention.apply,
    num_autocast=6,
)
chunked_attention_backward = register(
    "chunked_attention_backward",
    f"(Tensor dout, Tensor? dextra_out, {_INPUTS}, Tensor out, str? backend) -> (Tensor dq, Tensor dk, "
    "Tensor dv, Tensor dextra_q, Tensor dextra_k, Tensor dextra_v, Tensor dweights)",
    _backward,
    _backward_fake,
)
