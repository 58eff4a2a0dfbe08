"""Which keys a query sees, as a part of an ONNX graph: `lckernels.reference.visible_keys` again."""

from typing import Any

import onnxscript.ir as ir
from onnxscript import opset18 as op

from lckernels.onnx.call import Call

_INT64 = ir.DataType.INT64


def size(x: Any, dim: int) -> Any:
    """The size of a dimension, (1,) int64."""
    return op.Shape(x, start=dim, end=dim + 1)


def sizes(*parts: int | Any) -> Any:
    """A shape: numbers, and tensors (n,) int64 of the graph."""
    return op.Concat(*(op.Constant(value_ints=[x]) if isinstance(x, int) else x for x in parts), axis=0)


def steps(length: Any) -> Any:
    """0, 1, ..., length - 1 as (length,) int64, of a length (1,)."""
    return op.Range(0, op.Squeeze(length, [0]), 1)


def column(x: Any, dims: int) -> Any:
    """A tensor (B,) or () as int64 (B or 1, 1, ...) with `dims` dimensions."""
    return op.Reshape(op.Cast(x, to=_INT64), [-1] + [1] * (dims - 1))


def valid_keys(call: Call) -> Any:
    """(batch or 1, seqlen_k) bool by padding; None where no key is invalid."""
    options, parts = call.options, []
    j = op.Unsqueeze(steps(size(call.k, 1)), [0])
    if options.kv_start is not None:
        parts.append(op.GreaterOrEqual(j, column(options.kv_start, 2)))
    if options.kv_end is not None:
        parts.append(op.Less(j, column(options.kv_end, 2)))
    if options.kv_mask is not None:
        parts.append(options.kv_mask)
    return _all(parts)


def key_positions(call: Call) -> Any:
    """Position of each query among the keys, (batch or 1, seqlen_q, 1) int64."""
    options = call.options
    rows = op.Reshape(steps(size(call.q, 1)), [1, -1, 1])
    if options.offset_tensor is not None:
        return op.Add(rows, column(options.offset_tensor, 3))
    offset = options.offset
    if offset is None:
        offset = op.Sub(size(call.k, 1), size(call.q, 1))
    return op.Add(rows, offset)


def visible_keys(call: Call) -> Any:
    """(batch or 1, seqlen_q or 1, seqlen_k) bool; None where every key is visible."""
    options, (left, right) = call.options, call.window
    p, j = key_positions(call), op.Reshape(steps(size(call.k, 1)), [1, 1, -1])
    valid = valid_keys(call)
    parts = [] if valid is None else [op.Unsqueeze(valid, [1])]
    start = 0 if options.kv_start is None else column(options.kv_start, 3)
    if options.segment_ids is not None:
        same = _same_segment(call, p)
        parts.append(same)
        if options.sink_tokens:
            first = op.ReduceMin(op.Where(same, j, size(call.k, 1)), [2], keepdims=1)
            start = op.Max(first, start)
    if left >= 0:
        within = op.LessOrEqual(op.Sub(p, j), left)
        if options.sink_tokens:
            within = op.Or(within, op.Less(op.Sub(j, start), options.sink_tokens))
        parts.append(within)
    if right >= 0:
        parts.append(op.LessOrEqual(op.Sub(j, p), right))
    if options.chunk:
        parts.append(op.Equal(_chunk(call, j), _chunk(call, p)))
    return _all(parts)


def _same_segment(call: Call, p: Any) -> Any:
    ids, last = op.Cast(call.options.segment_ids, to=_INT64), op.Sub(size(call.k, 1), 1)
    inside = op.And(op.GreaterOrEqual(p, 0), op.LessOrEqual(p, last))
    rows = op.Expand(op.Squeeze(p, [2]), sizes(size(ids, 0), size(call.q, 1)))
    own = op.GatherElements(ids, op.Min(op.Max(rows, 0), last), axis=1)
    return op.And(inside, op.Equal(op.Unsqueeze(own, [2]), op.Unsqueeze(ids, [1])))


def _chunk(call: Call, x: Any) -> Any:
    """The number of the chunk at positions x, rounded down; ONNX's Div rounds toward 0."""
    options = call.options
    origin = (
        options.chunk_origin
        if options.chunk_origin_tensor is None
        else column(options.chunk_origin_tensor, 3)
    )
    x = op.Sub(x, origin)
    return op.Div(op.Sub(x, op.Mod(x, options.chunk)), options.chunk)


def _all(parts: list[Any]) -> Any:
    """The conjunction; None of no parts."""
    found = None
    for part in parts:
        found = part if found is None else op.And(found, part)
    return found
