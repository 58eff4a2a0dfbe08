"""Argument checks of the public functions: one clear error before any kernel runs.

Only shapes, dtypes, devices and Python numbers are read; the values of a tensor never are.
"""

import torch
from torch import Tensor

from lckernels.options import Layout, Score
from lckernels.plan import Plan

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WEIGHTS = ("uniform", "triangular", "hann", "crop")


def require(condition: bool, argument: str, got: object, allowed: str) -> None:
    """Raises ValueError naming the argument, what came and what is allowed."""
    if not condition:
        raise ValueError(f"{argument}: got {got}; {allowed}")


def _tensor(x: object, name: str, rank: int, shape_text: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected a torch.Tensor {shape_text}")
    require(x.dim() == rank, name, f"shape {tuple(x.shape)}", f"expected {rank} dimensions {shape_text}")


def _floating(x: Tensor, name: str) -> None:
    allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
    require(x.dtype in FLOATS, name, f"dtype {x.dtype}", f"allowed are {allowed}")


def _like(x: Tensor, name: str, other: Tensor, other_name: str) -> None:
    require(x.device == other.device, name, f"device {x.device}", f"{other_name} is on {other.device}")
    mixed = x.dtype == other.dtype or torch.is_autocast_enabled(other.device.type)
    require(mixed, name, f"dtype {x.dtype}", f"{other_name} has {other.dtype}")


def _integer(x: object, name: str, minimum: int) -> None:
    if isinstance(x, bool) or not isinstance(x, int | torch.SymInt):
        raise TypeError(f"{name}: got {x!r}; expected an int >= {minimum}")
    require(x >= minimum, name, x, f"expected an int >= {minimum}")


def _option(x: Tensor | None, name: str, shapes: tuple[tuple[int, ...], ...], kind: str, q: Tensor) -> None:
    """An optional tensor of one of the shapes, on q's device; kind is "integer", "bool" or "floating"."""
    if x is None:
        return
    text = " or ".join(str(tuple(shape)) for shape in shapes)
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected a {kind} tensor of shape {text}")
    require(tuple(x.shape) in shapes, name, f"shape {tuple(x.shape)}", f"expected {text}")
    right_kind = {
        "integer": x.dtype in (torch.int32, torch.int64),
        "bool": x.dtype == torch.bool,
        "floating": x.dtype in FLOATS,
    }[kind]
    require(right_kind, name, f"dtype {x.dtype}", f"expected a {kind} tensor")
    require(x.device == q.device, name, f"device {x.device}", f"q is on {q.device}")


def check_attention(q: Tensor, k: Tensor, v: Tensor, window_size: tuple[int, int], dropout_p: float) -> None:
    _tensor(q, "q", 4, "(batch, seqlen_q, num_heads, head_dim)")
    _tensor(k, "k", 4, "(batch, seqlen_k, num_kv_heads, head_dim)")
    _tensor(v, "v", 4, "(batch, seqlen_k, num_kv_heads, head_dim_v)")
    for x, name in ((q, "q"), (k, "k"), (v, "v")):
        _floating(x, name)
        _like(x, name, q, "q")
    require(q.shape[3] > 0, "q", f"head_dim {q.shape[3]}", "expected head_dim >= 1")
    require(k.shape[0] == q.shape[0], "k", f"batch {k.shape[0]}", f"q has batch {q.shape[0]}")
    require(k.shape[3] == q.shape[3], "k", f"head_dim {k.shape[3]}", f"q has head_dim {q.shape[3]}")
    require(v.shape[:3] == k.shape[:3], "v", f"shape {tuple(v.shape)}", f"k has shape {tuple(k.shape)}")
    num_heads, num_kv_heads = q.shape[2], k.shape[2]
    divides = num_kv_heads > 0 and num_heads % num_kv_heads == 0
    require(divides, "q", f"{num_heads} heads", f"the number must be a multiple of k's {num_kv_heads} heads")
    pair = isinstance(window_size, tuple | list) and len(window_size) == 2
    require(pair, "window_size", repr(window_size), "expected (left, right)")
    for side, size in zip(("left", "right"), window_size, strict=True):
        _integer(size, f"window_size {side}", -1)
    require(0.0 <= dropout_p < 1.0, "dropout_p", dropout_p, "expected 0 <= dropout_p < 1")


def check_layout(layout: Layout, q: Tensor, k: Tensor) -> None:
    batch, seqlen_k = k.shape[:2]
    packed = layout.cu_seqlens_q is not None
    both = packed == (layout.cu_seqlens_k is not None)
    require(both, "layout.cu_seqlens", "one of cu_seqlens_q and cu_seqlens_k", "expected both or none")
    if packed:
        require(q.shape[0] == 1, "q", f"batch {q.shape[0]}", "packed input (cu_seqlens) has batch 1")
        _tensor(layout.cu_seqlens_q, "layout.cu_seqlens_q", 1, "(num_segments + 1,)")
        bounds = layout.cu_seqlens_q.shape[0]
        require(bounds >= 1, "layout.cu_seqlens_q", "length 0", "expected num_segments + 1 bounds")
        for name in ("cu_seqlens_q", "cu_seqlens_k"):
            _option(getattr(layout, name), f"layout.{name}", ((bounds,),), "integer", q)
        require(layout.segment_ids is None, "layout.segment_ids", "a tensor", "cu_seqlens already packs")
        batch = bounds - 1
    per_row = ((batch,),)
    for name in ("offset", "chunk_origin"):
        value = getattr(layout, name)
        if isinstance(value, Tensor):
            _option(value, f"layout.{name}", ((), (batch,)), "integer", q)
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int | torch.SymInt)):
            raise TypeError(f"layout.{name}: got {value!r}; expected an int or an integer tensor")
    _option(layout.kv_start, "layout.kv_start", per_row, "integer", q)
    _option(layout.kv_end, "layout.kv_end", per_row, "integer", q)
    _option(layout.kv_mask, "layout.kv_mask", ((k.shape[0], seqlen_k),), "bool", q)
    _option(layout.segment_ids, "layout.segment_ids", ((k.shape[0], seqlen_k),), "integer", q)
    _integer(layout.sink_tokens, "layout.sink_tokens", 0)
    _integer(layout.chunk, "layout.chunk", 0)
    for name in ("max_seqlen_q", "max_seqlen_k"):
        if getattr(layout, name) is not None:
            _integer(getattr(layout, name), f"layout.{name}", 0)


def check_score(score: Score, q: Tensor) -> None:
    num_heads = q.shape[2]
    require(score.softcap >= 0, "score.softcap", score.softcap, "expected a number >= 0 (0 turns it off)")
    bias = score.rel_bias
    if bias is not None:
        _tensor(bias, "score.rel_bias", 2, "(num_heads, L)")
        require(bias.shape[1] > 0, "score.rel_bias", f"shape {tuple(bias.shape)}", "expected L >= 1")
        _option(bias, "score.rel_bias", ((num_heads, bias.shape[1]),), "floating", q)
    _integer(score.bias_center, "score.bias_center", 0)
    _option(score.sink_logits, "score.sink_logits", ((num_heads,),), "floating", q)


def check_states(outs: list[Tensor], lses: list[Tensor]) -> None:
    require(len(outs) > 0, "outs", "no states", "expected at least one")
    require(len(lses) == len(outs), "lses", f"{len(lses)} states", f"outs has {len(outs)}")
    for i, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        _tensor(out, f"outs[{i}]", 4, "(batch, seqlen_q, num_heads, head_dim)")
        _tensor(lse, f"lses[{i}]", 3, "(batch, num_heads, seqlen_q)")
        _floating(out, f"outs[{i}]")
        _like(out, f"outs[{i}]", outs[0], "outs[0]")
        _like(lse, f"lses[{i}]", lses[0], "lses[0]")
        same = out.shape == outs[0].shape
        require(same, f"outs[{i}]", f"shape {tuple(out.shape)}", f"outs[0] has shape {tuple(outs[0].shape)}")
        rows = (out.shape[0], out.shape[2], out.shape[1])
        require(tuple(lse.shape) == rows, f"lses[{i}]", f"shape {tuple(lse.shape)}", f"expected {rows}")
        require(lse.device == out.device, f"lses[{i}]", f"device {lse.device}", f"outs is on {out.device}")
    state = torch.float64 if outs[0].dtype == torch.float64 else torch.float32
    require(lses[0].dtype == state, "lses[0]", f"dtype {lses[0].dtype}", f"expected {state}")


def check_plan(plan: object, x: Tensor, name: str, shape: tuple[int, int | None]) -> None:
    """x matches the plan: its leading sizes are `shape` and it lives on the plan's device."""
    if not isinstance(plan, Plan):
        raise TypeError(f"plan: got {type(plan).__name__}; expected a lckernels.Plan")
    for i, size in enumerate(shape):
        fits = size is None or x.shape[i] == size
        require(fits, name, f"shape {tuple(x.shape)}", f"the plan wants size {size} in dimension {i}")
    device = plan.segments.device
    require(device == x.device, "plan", f"device {device}", f"{name} is on {x.device}; use plan.to(device)")


def check_chunks(chunks: Tensor, plan: Plan, weights: str | Tensor) -> None:
    _tensor(chunks, "chunks", 3, "(num_chunks, chunk_len, dim)")
    _floating(chunks, "chunks")
    shape = (plan.num_chunks, plan.chunk_len) if isinstance(plan, Plan) else (None, None)
    check_plan(plan, chunks, "chunks", shape)
    if isinstance(weights, Tensor):
        _option(weights, "weights", (shape,), "floating", chunks)
        return
    names = ", ".join(WEIGHTS)
    require(weights in WEIGHTS, "weights", repr(weights), f"allowed are {names} or a (num_chunks, chunk_len) tensor")
    if weights == "crop":
        gap = plan.crop_gap
        require(gap < 0, "plan", f"position {gap} in no or several keep ranges", "weights='crop' needs exactly one")


def check_sequence(sequence: Tensor, plan: Plan) -> None:
    _tensor(sequence, "sequence", 2, "(total_len, dim)")
    _floating(sequence, "sequence")
    check_plan(plan, sequence, "sequence", (plan.total_len if isinstance(plan, Plan) else None,))
