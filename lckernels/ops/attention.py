"""The op windowed_attention. Its options are flat arguments, listed in `fields`."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lckernels.arguments import MAX_MODEL_HEADS, check_inputs, sees_every_query
from lckernels.backends.registry import Problem, choose, window_forward
from lckernels.checks import INT32_MAX
from lckernels.dtypes import compute_dtype
from lckernels.fields import FIELDS, INDEX, SCHEMA, FlatOptions, WindowOptions, tensors_of, window_options
from lckernels.ops.registration import (
    below_autograd,
    first_order,
    is_observed,
    is_plain,
    register,
    requires_grad,
)

_MAX_SCALE = sys.float_info.max
_TENSORS = tuple(INDEX[field.name] for field in FIELDS if field.type == "Tensor?")


class _Problem(Problem):
    """A call of the op. A backend that reads neither its shapes nor its size costs no time for them."""

    __slots__ = ("inputs", "options")

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, options: FlatOptions) -> None:
        self.op, self.device_type, self.dtype = "windowed_attention", q.device.type, q.dtype
        self.inputs, self.options = (q, k, v), options

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return tuple(x.shape for x in self.inputs)

    @property
    def score_bytes(self) -> int:
        q, k, _ = self.inputs
        seqlen_k, longest = k.shape[1], self.options.max_seqlen_k
        if longest is not None:
            seqlen_k = min(longest, seqlen_k)
        return q.shape[0] * q.shape[2] * q.shape[1] * seqlen_k * compute_dtype(q.dtype).itemsize

    @property
    def segmented(self) -> bool:
        return self.options.segment_ids is not None


def attend_window(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: tuple[int, int],
    softmax_scale: float | None,
    offset: int | None,
    *,
    heads_first: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """The op for a call without other options, where C++ checks the tensors and runs it; None otherwise.

    The caller of `attend` checks the arguments itself. With heads_first the tensors are (batch, heads,
    seqlen, head_dim), and none may require a gradient.
    """
    if (
        is_observed()
        or not type(q) is type(k) is type(v) is Tensor
        or not (q.is_cpu and k.is_cpu and v.is_cpu)
    ):
        return None
    forward, shape_q, shape = window_forward(), q.shape, k.shape
    if forward is None or type(window_size) is not tuple or len(window_size) != 2:
        return None
    if not len(shape_q) == len(shape) == 4:
        return None
    left, right = window_size
    if not (type(left) is type(right) is int and -1 <= left <= INT32_MAX and -1 <= right <= INT32_MAX):
        return None
    if offset is None and not heads_first and not sees_every_query(shape_q[1], shape[1], window_size):
        return None
    if not shape[3] or shape[1 if heads_first else 2] > MAX_MODEL_HEADS:
        return None
    scale = shape[3] ** -0.5 if softmax_scale is None else softmax_scale
    if type(scale) is not float or not -_MAX_SCALE <= scale <= _MAX_SCALE:
        return None
    if offset is not None and not -INT32_MAX <= offset <= INT32_MAX:
        return None
    records = torch.is_grad_enabled() and requires_grad((q, k, v))
    if records and (heads_first or below_autograd()):
        return None
    try:
        if not records:
            return forward(q, k, v, left, right, scale, offset, heads_first)
        options = window_options(window_size, scale, offset)
        return _WindowedAttention.apply(q, k, v, None, None, options, None, forward)
    except RuntimeError as raised:
        error = raised
    # The same check again, whose error names the argument; whatever else failed is the caller's.
    check_inputs(*((x.transpose(1, 2) for x in (q, k, v)) if heads_first else (q, k, v)))
    raise error


def attend(
    q: Tensor, k: Tensor, v: Tensor, options: FlatOptions, backend: str | None
) -> tuple[Tensor, Tensor]:
    """The op windowed_attention, without torch's dispatcher where `is_plain`."""
    if torch.compiler.is_dynamo_compiling():
        return windowed_attention(q, k, v, *options, backend)
    tensors = (q, k, v) if type(options) is WindowOptions else (q, k, v, *tensors_of(options))
    if not is_plain(tensors):
        return windowed_attention(q, k, v, *options, backend)
    if torch.is_grad_enabled() and requires_grad(tensors):
        if below_autograd():
            return windowed_attention(q, k, v, *options, backend)
        return _apply(q, k, v, options, backend)
    return _run(q, k, v, options, backend)


def _run(q: Tensor, k: Tensor, v: Tensor, options: FlatOptions, backend: str | None) -> tuple[Tensor, Tensor]:
    chosen = choose(_Problem(q, k, v, options), backend)
    return chosen.ops["windowed_attention"](q, k, v, options)


def _windowed_attention(q: Tensor, k: Tensor, v: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return _run(q, k, v, FlatOptions._make(arguments[:-1]), arguments[-1])


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
    chosen = choose(_Problem(q, k, v, options), backend)
    *grads, dbias, dsink = chosen.ops["windowed_attention_backward"](dout, dlse, q, k, v, out, lse, options)
    return *grads, *(q.new_empty(0) if x is None else x for x in (dbias, dsink))


def _windowed_attention_backward_fake(
    dout: Tensor, dlse: Any, q: Tensor, k: Tensor, v: Tensor, out: Any, lse: Any, *options: Any
) -> tuple[Tensor, ...]:
    inputs = (q, k, v)
    parameters = (options[INDEX[name]] for name in ("rel_bias", "sink_logits"))
    return (
        *(x.new_empty(x.shape) for x in inputs),
        *(q.new_empty(0) if x is None else x.new_empty(x.shape) for x in parameters),
    )


class _WindowedAttention(torch.autograd.Function):
    """The gradient of windowed_attention. rel_bias and sink_logits are those of the options."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel_bias: Tensor | None,
        sink_logits: Tensor | None,
        options: FlatOptions,
        backend: str | None,
        forward: Callable | None = None,
    ) -> tuple[Tensor, Tensor]:
        if forward is not None:
            out, lse = forward(q, k, v, *options.window_size, options.softmax_scale, options.offset)
        else:
            with torch._C._AutoDispatchBelowAutograd():
                out, lse = attend(q, k, v, options, backend)
        ctx.options, tensors = [*options, backend], ()
        if type(options) is not WindowOptions:
            tensors = tensors_of(options)
            for index in _TENSORS:
                ctx.options[index] = None
        ctx.save_for_backward(q, k, v, out, lse, *tensors)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @first_order("windowed_attention")
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
        q, k, v, out, lse, *tensors = ctx.saved_tensors
        options = ctx.options[:]
        for index, x in zip(_TENSORS if tensors else (), tensors, strict=True):
            options[index] = x
        # One row of zeros: torch's loop over more of them would use threads, which a forked child lacks.
        dout = out.new_zeros(out.shape[-1]).expand(out.shape) if dout is None else dout
        grads = windowed_attention_backward(dout, dlse, q, k, v, out, lse, *options)
        needed = ctx.needs_input_grad[: len(grads)]
        return *(dx if need else None for dx, need in zip(grads, needed, strict=True)), None, None, None


def _apply(
    q: Tensor, k: Tensor, v: Tensor, options: FlatOptions, backend: str | None
) -> tuple[Tensor, Tensor]:
    parameters = options.rel_bias, options.sink_logits
    return _WindowedAttention.apply(q, k, v, *parameters, options, backend)


windowed_attention = register(
    "windowed_attention",
    f"(Tensor q, Tensor k, Tensor v, {SCHEMA}, str? backend) -> (Tensor out, Tensor lse)",
    _windowed_attention,
    _windowed_attention_fake,
    apply=lambda q, k, v, *args: _apply(q, k, v, FlatOptions._make(args[:-1]), args[-1]),
    num_autocast=3,
)
windowed_attention_backward = register(
    "windowed_attention_backward",
    "(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    f"{SCHEMA}, str? backend) -> (Tensor dq, Tensor dk, Tensor dv, Tensor drel_bias, Tensor dsink_logits)",
    _windowed_attention_backward,
    _windowed_attention_backward_fake,
)
