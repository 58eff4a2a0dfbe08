"""Argument checks of the public functions, one function per op."""

import sys
import warnings
from functools import cache

import torch
from torch import Tensor

from lckernels import checks
from lckernels.checks import INT32_MAX, WEIGHTS, bad
from lckernels.dtypes import compute_dtype
from lckernels.options import ExtraTokens, Layout, Score
from lckernels.plan import Plan

# No known model has more KV heads; the warning about the layout depends on it.
MAX_MODEL_HEADS = 128
_PAIRS = (tuple, list)  # a union would be built at each call
_PACKED = "; packed input (layout.cu_seqlens_q) has batch 1: pass q[None], k[None] and v[None]"


def _heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[torch.Size, torch.Size]:
    """Checks that dtypes, devices, heads and head_dims of (..., heads, head_dim) fit; returns two shapes."""
    dtype, device = q.dtype, q.device
    checks.floating("q", q)
    if not (k.dtype is dtype and v.dtype is dtype and k.device == device and v.device == device):
        for x, name in ((k, "k"), (v, "v")):
            checks.floating(name, x)
            checks.like(name, x, "q", q, autocasts=True)
    shape_q, shape_k, shape_v = q.shape, k.shape, v.shape
    num_heads, num_kv_heads = shape_q[-2], shape_k[-2]
    if shape_q[-1] == 0:
        raise bad("q", "head_dim 0", "expected head_dim >= 1")
    if shape_k[-1] != shape_q[-1]:
        raise bad("k", f"head_dim {shape_k[-1]}", f"q has head_dim {shape_q[-1]}")
    if shape_v != shape_k and shape_v[:-1] != shape_k[:-1]:
        raise bad("v", f"shape {tuple(shape_v)}", f"k has shape {tuple(shape_k)}")
    if num_kv_heads == 0 or num_heads % num_kv_heads:
        raise bad("q", f"{num_heads} heads", f"the number must be a multiple of k's {num_kv_heads} heads")
    return shape_q, shape_k


def check_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: tuple[int, int],
    softmax_scale: float | None,
    dropout_p: float,
) -> None:
    """Checks that q, k, v fit one another and the numbers are in range."""
    if check_inputs(q, k, v)[2] > MAX_MODEL_HEADS:
        _warn_of_heads_first(q, k)
    if not isinstance(window_size, _PAIRS) or len(window_size) != 2:
        raise bad("window_size", window_size, "expected (left, right)")
    left, right = window_size
    checks.integer("window_size left", left, -1)
    checks.integer("window_size right", right, -1)
    if softmax_scale is not None:
        checks.number("softmax_scale", softmax_scale, -sys.float_info.max)
    checks.number("dropout_p", dropout_p, 0)
    if dropout_p >= 1:
        raise bad("dropout_p", dropout_p, "expected 0 <= dropout_p < 1")


def check_inputs(q: Tensor, k: Tensor, v: Tensor) -> torch.Size:
    """Checks that q, k, v of windowed_attention fit one another; returns the shape of k."""
    checks.tensor("q", q, 4, "(batch, seqlen_q, num_heads, head_dim)", _PACKED)
    checks.tensor("k", k, 4, "(batch, seqlen_k, num_kv_heads, head_dim)")
    checks.tensor("v", v, 4, "(batch, seqlen_k, num_kv_heads, head_dim_v)")
    shape_q, shape_k = _heads(q, k, v)
    if shape_k[0] != shape_q[0]:
        raise bad("k", f"batch {shape_k[0]}", f"q has batch {shape_q[0]}")
    return shape_k


def _warn_of_heads_first(q: Tensor, k: Tensor) -> None:
    """Warns once if q and k look like (batch, heads, seqlen, head_dim), the layout of torch's SDPA.

    Such tensors are valid input with another meaning. The sign is more than MAX_MODEL_HEADS KV heads, as many
    query heads, and at most MAX_MODEL_HEADS positions.
    """
    heads_first = q.shape[2] == k.shape[2] and k.shape[1] <= q.shape[1] <= MAX_MODEL_HEADS
    if heads_first and not torch.compiler.is_compiling():
        _warn_once(tuple(q.shape))


def warn_of_rows_without_keys(
    q: Tensor, k: Tensor, window_size: tuple[int, int], layout: Layout | None
) -> None:
    """Warns once if the default offset leaves the first queries without a key.

    It is valid input, but also what tensors (batch, heads, seqlen, head_dim) of grouped heads look like.
    """
    lengths = q.shape[1], k.shape[1]
    # A comparison of symbolic sizes would be a condition on the lengths of a traced graph.
    if torch.compiler.is_compiling() or any(type(n) is not int for n in lengths):
        return
    if sees_every_query(*lengths, window_size):
        return
    if layout is None or (layout.offset is None and layout.cu_seqlens_q is None):
        _warn_once_of_rows(tuple(q.shape), tuple(k.shape), int(window_size[1]))


def sees_every_query(seqlen_q: int, seqlen_k: int, window_size: tuple[int, int]) -> bool:
    """Whether with the default offset no query comes before the keys that its window reaches."""
    return window_size[1] < 0 or seqlen_q - seqlen_k <= window_size[1]


@cache
def _warn_once_of_rows(shape_q: tuple[int, ...], shape_k: tuple[int, ...], right: int) -> None:
    warnings.warn(
        f"q: got shape {shape_q}, and k {shape_k}: with window_size (left, {right}) and the default offset "
        f"the first {shape_q[1] - shape_k[1] - right} queries see no key, and their rows are zeros. "
        "layout=Layout(offset=0) aligns the first query with the first key. Tensors (batch, num_heads, "
        "seqlen, head_dim), as for F.scaled_dot_product_attention, go in as q.transpose(1, 2), "
        "k.transpose(1, 2) and v.transpose(1, 2)",
        stacklevel=5,
    )


@cache
def _warn_once(shape: tuple[int, ...]) -> None:
    _, seqlen, num_heads, _ = shape
    warnings.warn(
        f"q: got shape {shape}, which is {seqlen} positions of {num_heads} heads: windowed_attention expects "
        "(batch, seqlen, num_heads, head_dim). Tensors (batch, num_heads, seqlen, head_dim), as for "
        "F.scaled_dot_product_attention, go in as q.transpose(1, 2), k.transpose(1, 2) and "
        "v.transpose(1, 2); out.transpose(1, 2) has their layout again",
        stacklevel=6,
    )


def check_backend(backend: str | None) -> None:
    """Checks the type of a backend's name; the op checks the name."""
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend: got {backend!r}; expected None or the name of a backend")


def check_layout(layout: Layout, q: Tensor, k: Tensor) -> None:
    """Checks that every tensor of the layout fits q and k and every number is in range."""
    if not isinstance(layout, Layout):
        raise TypeError(f"layout: got {type(layout).__name__}; expected a lckernels.Layout")
    batch = (
        q.shape[0] if layout.cu_seqlens_q is None and layout.cu_seqlens_k is None else _segments(layout, q)
    )
    for name in ("offset", "chunk_origin"):
        value = getattr(layout, name)
        if isinstance(value, Tensor):
            checks.option(f"layout.{name}", value, "integer", "q", q, (), (batch,))
        elif value is not None or name == "chunk_origin":
            checks.integer(f"layout.{name}", value, -INT32_MAX, alternative=" or an integer tensor")
    for name in ("kv_start", "kv_end"):
        if (bounds := getattr(layout, name)) is not None:
            checks.option(f"layout.{name}", bounds, "integer", "q", q, (batch,))
    for name, kind in (("kv_mask", "bool"), ("segment_ids", "integer")):
        if (table := getattr(layout, name)) is not None:
            checks.option(f"layout.{name}", table, kind, "q", q, tuple(k.shape[:2]))
    checks.integer("layout.sink_tokens", layout.sink_tokens, 0)
    checks.integer("layout.chunk", layout.chunk, 0)
    for name in ("max_seqlen_q", "max_seqlen_k"):
        if (longest := getattr(layout, name)) is not None:
            checks.integer(f"layout.{name}", longest, 0)


def _segments(layout: Layout, q: Tensor) -> int:
    """The number of segments of packed input."""
    if layout.cu_seqlens_q is None or layout.cu_seqlens_k is None:
        raise bad("layout.cu_seqlens", "one of cu_seqlens_q and cu_seqlens_k", "expected both or none")
    if q.shape[0] != 1:
        raise bad("q", f"batch {q.shape[0]}", "packed input (cu_seqlens) has batch 1")
    if layout.segment_ids is not None:
        raise bad("layout.segment_ids", "a tensor beside cu_seqlens", "expected one of the two")
    checks.tensor("layout.cu_seqlens_q", layout.cu_seqlens_q, 1, "(num_segments + 1,)")
    bounds = layout.cu_seqlens_q.shape[0]
    if bounds == 0:
        raise bad("layout.cu_seqlens_q", "length 0", "expected num_segments + 1 bounds")
    checks.option("layout.cu_seqlens_q", layout.cu_seqlens_q, "integer", "q", q, (bounds,))
    checks.option("layout.cu_seqlens_k", layout.cu_seqlens_k, "integer", "q", q, (bounds,))
    return bounds - 1


def check_score(score: Score, q: Tensor) -> None:
    """Checks that the score's tensors have one row per head of q and its numbers are in range."""
    if not isinstance(score, Score):
        raise TypeError(f"score: got {type(score).__name__}; expected a lckernels.Score")
    num_heads, bias = q.shape[2], score.rel_bias
    checks.number("score.softcap", score.softcap, 0)
    if bias is not None:
        checks.tensor("score.rel_bias", bias, 2, "(num_heads, L)")
        if bias.shape[1] == 0:
            raise bad("score.rel_bias", f"shape {tuple(bias.shape)}", "expected L >= 1")
        checks.option("score.rel_bias", bias, "floating", "q", q, (num_heads, bias.shape[1]))
    center = checks.integer("score.bias_center", score.bias_center, -INT32_MAX)
    if bias is None and center:
        raise bad("score.bias_center", center, "it has no effect without score.rel_bias")
    checks.option("score.sink_logits", score.sink_logits, "floating", "q", q, (num_heads,))


def check_sequences(outs: object, lses: object) -> None:
    """Checks that the states come as two sequences."""
    for name, states in (("outs", outs), ("lses", lses)):
        if not hasattr(states, "__iter__"):
            raise TypeError(f"{name}: got {type(states).__name__}; expected a sequence of tensors")


def check_states(outs: list[Tensor], lses: list[Tensor]) -> None:
    """Checks that the states have one shape, dtype and device."""
    if not outs:
        raise bad("outs", "no states", "expected at least one")
    if len(lses) != len(outs):
        raise bad("lses", f"{len(lses)} states", f"outs has {len(outs)}")
    for i, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        checks.tensor(f"outs[{i}]", out, 4, "(batch, seqlen_q, num_heads, head_dim)")
        checks.tensor(f"lses[{i}]", lse, 3, "(batch, num_heads, seqlen_q)")
        checks.floating(f"outs[{i}]", out)
        checks.like(f"outs[{i}]", out, "outs[0]", outs[0])
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
    """Checks that chunks, plan and weights fit one another."""
    checks.tensor("chunks", chunks, 3, "(num_chunks, chunk_len, dim)")
    checks.floating("chunks", chunks)
    _plan(plan, chunks, "chunks")
    rows = (plan.num_chunks, plan.chunk_len)
    if tuple(chunks.shape[:2]) != rows:
        raise bad("chunks", f"shape {tuple(chunks.shape)}", f"the plan has (num_chunks, chunk_len) = {rows}")
    _merge_weights(weights, plan, chunks, "chunks")


def _merge_weights(weights: str | Tensor, plan: Plan, x: Tensor, name: str) -> None:
    if isinstance(weights, Tensor):
        checks.option("weights", weights, "floating", name, x, (plan.num_chunks, plan.chunk_len))
    elif not isinstance(weights, str) or weights not in WEIGHTS:
        allowed = f"allowed are {', '.join(WEIGHTS)} or a (num_chunks, chunk_len) tensor"
        if not isinstance(weights, str):
            raise TypeError(f"weights: got {type(weights).__name__}; {allowed}")
        raise bad("weights", repr(weights), allowed)
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
    """Checks that q, k, v, plan, weights and extra tokens fit one another and the scale is a number."""
    checks.tensor("q", q, 3, "(total_len, num_heads, head_dim)")
    checks.tensor("k", k, 3, "(total_len, num_kv_heads, head_dim)")
    checks.tensor("v", v, 3, "(total_len, num_kv_heads, head_dim_v)")
    _heads(q, k, v)
    _plan(plan, q, "q")
    for x, name in ((q, "q"), (k, "k")):
        if x.shape[0] != plan.total_len:
            raise bad(name, f"shape {tuple(x.shape)}", f"the plan has total_len = {plan.total_len}")
    _merge_weights(weights, plan, q, "q")
    if extra is not None:
        _extra_tokens(extra, q, k, v, plan.num_chunks)
    if softmax_scale is not None:
        checks.number("softmax_scale", softmax_scale, -sys.float_info.max)


def _extra_tokens(extra: ExtraTokens, q: Tensor, k: Tensor, v: Tensor, num_chunks: int) -> None:
    if not isinstance(extra, ExtraTokens):
        raise TypeError(f"extra: got {type(extra).__name__}; expected a lckernels.ExtraTokens")
    shape_text = "(num_chunks, num_extra, heads, head_dim)"
    for name, x in zip("qkv", (q, k, v), strict=True):
        own, argument = getattr(extra, name), f"extra.{name}"
        checks.tensor(argument, own, 4, shape_text)
        checks.floating(argument, own)
        checks.like(argument, own, "q", q, autocasts=True)
        shape = (num_chunks, extra.q.shape[1], *x.shape[1:])
        if tuple(own.shape) != shape:
            raise bad(argument, f"shape {tuple(own.shape)}", f"expected {shape_text} = {shape}")


def check_sequence(sequence: Tensor, plan: Plan) -> None:
    """Checks that sequence and plan fit one another."""
    checks.tensor("sequence", sequence, 2, "(total_len, dim)")
    checks.floating("sequence", sequence)
    _plan(plan, sequence, "sequence")
    if sequence.shape[0] != plan.total_len:
        raise bad("sequence", f"shape {tuple(sequence.shape)}", f"the plan has total_len = {plan.total_len}")
