"""The op windowed_attention, and its options as flat arguments."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lckernels.backends.registry import Problem, choose
from lckernels.dtypes import compute_dtype
from lckernels.ops.registration import register, register_autocast, register_autograd
from lckernels.options import AttentionOptions, Layout, Score, number_or_tensor

_ATTENTION_OPTIONS = (
    "SymInt[2] window_size, float softmax_scale, SymInt? offset, Tensor? offset_tensor, Tensor? kv_start, "
    "Tensor? kv_end, Tensor? kv_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, SymInt? max_seqlen_q, "
    "SymInt? max_seqlen_k, Tensor? segment_ids, SymInt sink_tokens, SymInt chunk, SymInt chunk_origin, "
    "Tensor? chunk_origin_tensor, float softcap, Tensor? rel_bias, SymInt bias_center, Tensor? sink_logits, "
    "float dropout_p, Tensor? seed, str? backend"
)
_MAX_SEQLEN_K, _SEGMENT_IDS, _REL_BIAS, _SINK_LOGITS = 10, 11, 17, 19  # places in _ATTENTION_OPTIONS


def flat_options(options: AttentionOptions, backend: str | None) -> tuple:
    """The options as the op's flat arguments, in the order of the schema."""
    window_size, softmax_scale, layout, score, dropout_p, seed = options
    offset, offset_tensor = number_or_tensor(layout.offset)
    origin, origin_tensor = number_or_tensor(layout.chunk_origin, 0)
    return (
        window_size, softmax_scale, offset, offset_tensor,
        layout.kv_start, layout.kv_end, layout.kv_mask, layout.cu_seqlens_q, layout.cu_seqlens_k,
        layout.max_seqlen_q, layout.max_seqlen_k, layout.segment_ids, layout.sink_tokens, layout.chunk,
        origin, origin_tensor, score.softcap, score.rel_bias,
        score.bias_center, score.sink_logits, dropout_p, seed, backend,
    )  # fmt: skip


def grouped_options(options: tuple) -> AttentionOptions:
    """The op's flat arguments, grouped again."""
    window_size, scale, offset, offset_tensor = options[:4]
    chunk_origin, origin_tensor = options[14:16]
    layout = Layout(
        offset if offset_tensor is None else offset_tensor,
        *options[4:14],
        chunk_origin if origin_tensor is None else origin_tensor,
    )
    score, dropout_p, seed = Score(*options[16:20]), options[20], options[21]
    return AttentionOptions(tuple(window_size), scale, layout, score, dropout_p, seed)


def _attention_problem(q: Tensor, k: Tensor, v: Tensor, options: tuple) -> Problem:
    max_seqlen_k = options[_MAX_SEQLEN_K]
    seqlen_k = k.shape[1] if max_seqlen_k is None else min(max_seqlen_k, k.shape[1])
    scores = prod((q.shape[0], q.shape[2], q.shape[1], seqlen_k))
    score_bytes = scores * (8 if q.dtype == torch.float64 else 4)
    shapes, segmented = (q.shape, k.shape, v.shape), options[_SEGMENT_IDS] is not None
    return Problem("windowed_attention", q.device.type, q.dtype, shapes, score_bytes, segmented)


def _windowed_attention(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    module = choose(_attention_problem(q, k, v, options), options[-1])
    return module.windowed_attention(q, k, v, grouped_options(options))


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
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    module = choose(_attention_problem(q, k, v, options), options[-1])
    *grads, dbias, dsink = module.windowed_attention_backward(
        dout, dlse, q, k, v, out, lse, grouped_options(options)
    )
    return *grads, *(q.new_empty(0) if x is None else x for x in (dbias, dsink))


def _windowed_attention_backward_fake(
    dout: Tensor, dlse: Any, q: Tensor, k: Tensor, v: Tensor, out: Any, lse: Any, *options: Any
) -> tuple[Tensor, ...]:
    inputs = (q, k, v)
    parameters = (options[_REL_BIAS], options[_SINK_LOGITS])
    return (
        *(x.new_empty(x.shape) for x in inputs),
        *(q.new_empty(0) if x is None else x.new_empty(x.shape) for x in parameters),
    )


class _WindowedAttention(torch.autograd.Function):
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
        dq, dk, dv, dbias, dsink = windowed_attention_backward(dout, dlse, q, k, v, out, lse, *options)
        grads: list[Tensor | None] = [None] * len(options)
        if ctx.needs_input_grad[3 + _REL_BIAS]:
            grads[_REL_BIAS] = dbias
        if ctx.needs_input_grad[3 + _SINK_LOGITS]:
            grads[_SINK_LOGITS] = dsink
        return dq, dk, dv, *grads


windowed_attention = register(
    "windowed_attention",
    f"(Tensor q, Tensor k, Tensor v, {_ATTENTION_OPTIONS}) -> (Tensor out, Tensor lse)",
    _windowed_attention,
    _windowed_attention_fake,
)
windowed_attention_backward = register(
    "windowed_attention_backward",
    "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{_ATTENTION_OPTIONS}) -> (Tensor dq, Tensor dk, Tensor dv, Tensor drel_bias, Tensor dsink_logits)",
    _windowed_attention_backward,
    _windowed_attention_backward_fake,
)
register_autograd("windowed_attention", _WindowedAttention.apply)
register_autocast("windowed_attention", 3)
register_autocast("windowed_attention_backward", 0)
