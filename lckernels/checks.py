"""Argument checks of the public functions: one clear error before any kernel runs.

Only shapes, dtypes, devices and Python numbers are read; the values of a tensor never are.
"""

import math
import sys

import torch
from torch import Tensor

from lckernels.options import ExtraTokens, Layout, Score
from lckernels.plan import INT32_MAX, Plan
from lckernels.reference import compute_dtype

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WEIGHTS = ("uniform", "triangular", "hann", "crop")
_KINDS = {"integer": (torch.int32, torch.int64), "bool": (torch.bool,), "floating": FLOATS}
_KIND_NAMES = {"integer": "an integer", "bool": "a bool", "floating": "a floating"}


def bad(argument: str, got: object, allowed: str) -> ValueError:
    """The error for a wrong value: the argument, what came, what is allowed."""
    return ValueError(f"{argument}: got {got}; {allowed}")


def weights_error(position: int) -> ValueError:
    """The error of every backend for explicit merge weights whose values cannot be used."""
    wrong = f"values negative, not finite or of sum zero at position {position}"
    return bad("weights", wrong, "expected finite ones >= 0 with a sum > 0")


def _tensor(x: object, name: str, rank: int, shape_text: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected a torch.Tensor {shape_text}")
    if x.dim() != rank:
        raise bad(name, f"shape {tuple(x.shape)}", f"expected {rank} dimensions {shape_text}")


def _floating(x: Tensor, name: str) -> None:
    if x.dtype not in FLOATS:
        raise bad(name, f"dtype {x.dtype}", "allowed are float32, bfloat16, float16, float64")


def _like(x: Tensor, name: str, other: Tensor, other_name: str, casts: bool = False) -> None:
    """x has other's device and dtype; casts: autocast will make the dtypes equal."""
    if x.device != other.device:
        raise bad(name, f"device {x.device}", f"{other_name} is on {other.device}")
    if x.dtype == other.dtype:
        return
    device = other.device.type
    autocast = casts and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not autocast or torch.float64 in (x.dtype, other.dtype):
        raise bad(name, f"dtype {x.dtype}", f"{other_name} has {other.dtype}")


def _is_int(x: object) -> bool:
    return isinstance(x, int | torch.SymInt) and not isinstance(x, bool)


def _integer(x: object, name: str, minimum: int) -> None:
    if not _is_int(x):
        raise TypeError(f"{name}: got {x!r}; expected an int >= {minimum}")
    if not minimum <= x <= INT32_MAX:
        raise bad(name, x, f"expected an int >= {minimum} and below 2^31")


def _number(x: object, name: str, minimum: float) -> None:
    if not isinstance(x, int | float | torch.SymFloat) or isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}; expected a number")
    if not minimum <= x < math.inf:
        raise bad(name, x, "expected a finite number" + (" >= 0" if minimum == 0 else ""))


def _option(
    x: Tensor | None, name: str, kind: str, q: Tensor, *shapes: tuple[int, ...], q_name: str = "q"
) -> None:
    """An optional tensor of one of the shapes, on q's device; kind is a key of _KINDS."""
    if x is None:
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected {_KIND_NAMES[kind]} tensor")
    if tuple(x.shape) not in shapes:
        raise bad(name, f"shape {tuple(x.shape)}", f"expected {' or '.join(str(shape) for shape in shapes)}")
    if x.dtype not in _KINDS[kind]:
        raise bad(name, f"dtype {x.dtype}", f"expected {_KIND_NAMES[kind]} tensor")
    if x.device != q.device:
        raise bad(name, f"device {x.device}", f"{q_name} is on {q.device}")


def _heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """dtypes, devices, heads and head_dims of (..., heads, head_dim) fit one another."""
    _floating(q, "q")
    for x, name in ((k, "k"), (v, "v")):
        _floating(x, name)
        _like(x, name, q, "q", casts=True)
    if q.shape[-1] == 0:
        raise bad("q", "head_dim 0", "expected head_dim >= 1")
    if k.shape[-1] != q.shape[-1]:
        raise bad("k", f"head_dim {k.shape[-1]}", f"q has head_dim {q.shape[-1]}")
    if v.shape[:-1] != k.shape[:-1]:
        raise bad("v", f"shape {tuple(v.shape)}", f"k has shape {tuple(k.shape)}")
    if k.shape[-2] == 0 or q.shape[-2] % k.shape[-2]:
        raise bad("q", f"{q.shape[-2]} heads", f"the number must be a multiple of k's {k.shape[-2]} heads")


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: tuple[int, int],
    softmax_scale: float | None,
    dropout_p: float,
) -> None:
    """q, k, v fit one another; the numbers are in range."""
    _tensor(q, "q", 4, "(batch, seqlen_q, num_heads, head_dim)")
    _tensor(k, "k", 4, "(batch, seqlen_k, num_kv_heads, head_dim)")
    _tensor(v, "v", 4, "(batch, seqlen_k, num_kv_heads, head_dim_v)")
    _heads(q, k, v)
    if k.shape[0] != q.shape[0]:
        raise bad("k", f"batch {k.shape[0]}", f"q has batch {q.shape[0]}")
    if not isinstance(window_size, tuple | list) or len(window_size) != 2:
        raise bad("window_size", window_size, "expected (left, right)")
    _integer(window_size[0], "window_size left", -1)
    _integer(window_size[1], "window_size right", -1)
    if softmax_scale is not None:
        _number(softmax_scale, "softmax_scale", -sys.float_info.max)
    _number(dropout_p, "dropout_p", 0)
    if dropout_p >= 1:
        raise bad("dropout_p", dropout_p, "expected 0 <= dropout_p < 1")


def check_layout(layout: Layout, q: Tensor, k: Tensor) -> None:
    """Every tensor of the layout fits q and k; every number is in range."""
    batch = (
        q.shape[0] if layout.cu_seqlens_q is None and layout.cu_seqlens_k is None else _segments(layout, q)
    )
    for name in ("offset", "chunk_origin"):
        value = getattr(layout, name)
        if isinstance(value, Tensor):
            _option(value, f"layout.{name}", "integer", q, (), (batch,))
        elif value is not None or name == "chunk_origin":
            if not _is_int(value):
                raise TypeError(f"layout.{name}: got {value!r}; expected an int or an integer tensor")
            _integer(value, f"layout.{name}", -INT32_MAX)
    _option(layout.kv_start, "layout.kv_start", "integer", q, (batch,))
    _option(layout.kv_end, "layout.kv_end", "integer", q, (batch,))
    _option(layout.kv_mask, "layout.kv_mask", "bool", q, tuple(k.shape[:2]))
    _option(layout.segment_ids, "layout.segment_ids", "integer", q, tuple(k.shape[:2]))
    _integer(layout.sink_tokens, "layout.sink_tokens", 0)
    _integer(layout.chunk, "layout.chunk", 0)
    for name in ("max_seqlen_q", "max_seqlen_k"):
        if getattr(layout, name) is not None:
            _integer(getattr(layout, name), f"layout.{name}", 0)


def _segments(layout: Layout, q: Tensor) -> int:
    """The number of segments of packed input."""
    if layout.cu_seqlens_q is None or layout.cu_seqlens_k is None:
        raise bad("layout.cu_seqlens", "one of cu_seqlens_q and cu_seqlens_k", "expected both or none")
    if q.shape[0] != 1:
        raise bad("q", f"batch {q.shape[0]}", "packed input (cu_seqlens) has batch 1")
    if layout.segment_ids is not None:
        raise bad("layout.segment_ids", "a tensor beside cu_seqlens", "expected one of the two")
    _tensor(layout.cu_seqlens_q, "layout.cu_seqlens_q", 1, "(num_segments + 1,)")
    bounds = layout.cu_seqlens_q.shape[0]
    if bounds == 0:
        raise bad("layout.cu_seqlens_q", "length 0", "expected num_segments + 1 bounds")
    _option(layout.cu_seqlens_q, "layout.cu_seqlens_q", "integer", q, (bounds,))
    _option(layout.cu_seqlens_k, "layout.cu_seqlens_k", "integer", q, (bounds,))
    return bounds - 1


def check_score(score: Score, q: Tensor) -> None:
    """The score's tensors have one row per head of q; its numbers are in range."""
    num_heads, bias = q.shape[2], score.rel_bias
    _number(score.softcap, "score.softcap", 0)
    if bias is not None:
        _tensor(bias, "score.rel_bias", 2, "(num_heads, L)")
        if bias.shape[1] == 0:
            raise bad("score.rel_bias", f"shape {tuple(bias.shape)}", "expected L >= 1")
        _option(bias, "score.rel_bias", "floating", q, (num_heads, bias.shape[1]))
    _integer(score.bias_center, "score.bias_center", -INT32_MAX)
    _option(score.sink_logits, "score.sink_logits", "floating", q, (num_heads,))


def check_states(outs: list[Tensor], lses: list[Tensor]) -> None:
    """The states have one shape, dtype and device."""
    if not outs:
        raise bad("outs", "no states", "expected at least one")
    if len(lses) != len(outs):
        raise bad("lses", f"{len(lses)} states", f"outs has {len(outs)}")
    for i, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        _tensor(out, f"outs[{i}]", 4, "(batch, seqlen_q, num_heads, head_dim)")
        _tensor(lse, f"lses[{i}]", 3, "(batch, num_heads, seqlen_q)")
        _floating(out, f"outs[{i}]")
        _like(out, f"outs[{i}]", outs[0], "outs[0]")
        if out.shape != outs[0].shape:
            raise bad(f"outs[{i}]", f"shape {tuple(out.shape)}", f"outs[0] has shape {tuple(outs[0].shape)}")
        rows = (out.shape[0], out.shape[2], out.shape[1])
        if tuple(lse.shape) != rows:
            raise bad(f"lses[{i}]", f"shape {tuple(lse.shape)}", f"expected {rows}")
        if lse.device != out.device:
            raise bad(f"lses[{i}]", f"device {lse.device}", f"outs is on {out.device}")
        if lse.dtype != compute_dtype(out.dtype):
            raise bad(f"lses[{i}]", f"dtype {lse.dtype}", f"expected {compute_dtype(out.dtype)}")


def _plan(plan: object, x: Tensor, name: str) -> None:
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: got {type(plan).__name__}; expected a lckernels.Plan")
    if plan.segments.device != x.device:
        raise bad("plan", f"device {plan.device}", f"{name} is on {x.device}; use plan.to(device)")


def check_chunks(chunks: Tensor, plan: Plan, weights: str | Tensor) -> None:
    """chunks, plan and weights fit one another."""
    _tensor(chunks, "chunks", 3, "(num_chunks, chunk_len, dim)")
    _floating(chunks, "chunks")
    _plan(plan, chunks, "chunks")
    rows = (plan.num_chunks, plan.chunk_len)
    if tuple(chunks.shape[:2]) != rows:
        raise bad("chunks", f"shape {tuple(chunks.shape)}", f"the plan has (num_chunks, chunk_len) = {rows}")
    _merge_weights(weights, plan, chunks, "chunks")


def _merge_weights(weights: str | Tensor, plan: Plan, x: Tensor, name: str) -> None:
    if isinstance(weights, Tensor):
        _option(weights, "weights", "floating", x, (plan.num_chunks, plan.chunk_len), q_name=name)
    elif weights not in WEIGHTS:
        names = ", ".join(WEIGHTS)
        raise bad("weights", repr(weights), f"allowed are {names} or a (num_chunks, chunk_len) tensor")
    elif weights == "crop" and plan.crop_gap >= 0:
        got = f"position {plan.crop_gap} in no or several keep ranges"
        raise bad("plan", got, "weights='crop' needs exactly one")


def check_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: Plan,
    weights: str | Tensor,
    extra: ExtraTokens | None,
    softmax_scale: float | None,
) -> None:
    """q, k, v, the plan, the weights and the extra tokens fit one another; the scale is a number."""
    _tensor(q, "q", 3, "(total_len, num_heads, head_dim)")
    _tensor(k, "k", 3, "(total_len, num_kv_heads, head_dim)")
    _tensor(v, "v", 3, "(total_len, num_kv_heads, head_dim_v)")
    _heads(q, k, v)
    _plan(plan, q, "q")
    for x, name in ((q, "q"), (k, "k")):
        if x.shape[0] != plan.total_len:
            raise bad(name, f"shape {tuple(x.shape)}", f"the plan has total_len = {plan.total_len}")
    _merge_weights(weights, plan, q, "q")
    if extra is not None:
        _extra_tokens(extra, q, k, v, plan.num_chunks)
    if softmax_scale is not None:
        _number(softmax_scale, "softmax_scale", -sys.float_info.max)


def _extra_tokens(extra: ExtraTokens, q: Tensor, k: Tensor, v: Tensor, num_chunks: int) -> None:
    if not isinstance(extra, ExtraTokens):
        raise TypeError(f"extra: got {type(extra).__name__}; expected a lckernels.ExtraTokens")
    shape_text = "(num_chunks, num_extra, heads, head_dim)"
    for name, x in zip("qkv", (q, k, v), strict=True):
        own, argument = getattr(extra, name), f"extra.{name}"
        _tensor(own, argument, 4, shape_text)
        _floating(own, argument)
        _like(own, argument, q, "q", casts=True)
        shape = (num_chunks, extra.q.shape[1], *x.shape[1:])
        if tuple(own.shape) != shape:
            raise bad(argument, f"shape {tuple(own.shape)}", f"expected {shape_text} = {shape}")


def check_sequence(sequence: Tensor, plan: Plan) -> None:
    """sequence and plan fit one another."""
    _tensor(sequence, "sequence", 2, "(total_len, dim)")
    _floating(sequence, "sequence")
    _plan(plan, sequence, "sequence")
    if sequence.shape[0] != plan.total_len:
        raise bad("sequence", f"shape {tuple(sequence.shape)}", f"the plan has total_len = {plan.total_len}")
