"""windowed_attention by onnxruntime's GroupQueryAttention and MultiHeadAttention.

Both get q, k and v with wider heads: a column that is 1 in q and INVISIBLE in an invalid key hides that key
without a mask of queries by keys, and columns of 0 make the width a multiple of 8, as GroupQueryAttention
requires.
"""

from typing import Any

import onnxscript.ir as ir
from onnxscript import opset18 as op

from lckernels.onnx.call import Call
from lckernels.onnx.operators import INVISIBLE, group_query_attention, multi_head_attention
from lckernels.onnx.plain import bias_by_distance, number
from lckernels.onnx.visible import size, sizes, steps, valid_keys, visible_keys

_INT32, _INT64 = ir.DataType.INT32, ir.DataType.INT64


def windowed_by_group_query_attention(call: Call) -> Any:
    """A window, with padding: query i becomes row i + right, where a causal window ends at its last key."""
    left, right = call.window
    q, k, v, valid = call.q, call.k, call.v, valid_keys(call)
    shift = None
    if right:
        shift = op.Min(
            size(k, 1), op.Constant(value_ints=[right])
        )  # beyond seqlen rows `left`, at least as long, hides nothing
        ends = steps(op.Add(size(k, 1), shift))
        inside = op.Unsqueeze(op.Less(ends, size(k, 1)), [0])
        valid = inside if valid is None else op.And(inside, _with_rows(valid, shift, 1, after=True))
        q = _with_rows(q, shift, 1, after=False)
        k, v = (_with_rows(x, shift, 1, after=True) for x in (k, v))
    width = _multiple_of_8(max(call.head_dim + (valid is not None), call.head_dim_v))
    keys = left + right + 1 if left >= 0 else -1
    out = _group_query_attention(call, *_wider(call, q, k, v, valid, width), keys)
    out = op.Slice(out, [0], [call.head_dim_v], [3])
    if shift is not None:
        out = op.Slice(out, shift, op.Add(shift, size(call.q, 1)), [1])
    return out if not call.padded else _zero_without_keys(out, _sees_a_key(call, valid, shift, keys))


def biased_group_query_attention(call: Call) -> Any:
    """Whatever keys before its own a query sees, by a bias of queries by keys, which all heads share."""
    dtype, width = call.q.dtype, _multiple_of_8(max(call.head_dim, call.head_dim_v))
    seen = visible_keys(call)
    zero, low = number(0.0, dtype), number(INVISIBLE[dtype], dtype)
    added = zero if call.options.rel_bias is None else bias_by_distance(call, dtype)
    bias = op.Where(op.Unsqueeze(seen, [1]), added, low)
    out = _group_query_attention(call, *_wider(call, call.q, call.k, call.v, None, width), -1, bias)
    sees = op.ReduceMax(op.Cast(seen, to=_INT32), [2], keepdims=1)
    return _zero_without_keys(
        op.Slice(out, [0], [call.head_dim_v], [3]), op.Greater(op.Unsqueeze(sees, [3]), _int32(0))
    )


def full_by_multi_head_attention(call: Call) -> Any:
    """Every valid key."""
    valid, group = valid_keys(call), call.num_heads // call.num_kv_heads
    width = call.head_dim if valid is None else _multiple_of_8(call.head_dim + 1)
    q, k, v = _wider(call, call.q, call.k, call.v, valid, width, values=False)
    flat = [op.Reshape(q, [0, 0, -1])]
    for x, dim in ((k, width), (v, call.head_dim_v)):
        if group > 1:
            x = op.Expand(op.Unsqueeze(x, [3]), sizes(op.Shape(x, start=0, end=3), group, dim))
        flat.append(op.Reshape(x, [0, 0, call.num_heads * dim]))
    out = multi_head_attention(
        *flat, num_heads=call.num_heads, scale=float(call.options.softmax_scale), unidirectional=0
    )
    out = op.Reshape(out, [0, 0, call.num_heads, call.head_dim_v])
    if valid is None:
        return out
    some = op.ReduceMax(op.Cast(valid, to=_INT32), [1], keepdims=1)
    return _zero_without_keys(out, op.Unsqueeze(op.Greater(some, _int32(0)), [2, 3]))


def _group_query_attention(call: Call, q: Any, k: Any, v: Any, keys: int, bias: Any = None) -> Any:
    """out (batch, seqlen, num_heads, width)."""
    options, dtype = call.options, call.q.dtype
    length = op.Cast(size(q, 1), to=_INT32)
    last = op.Expand(op.Sub(length, _int32(1)), size(q, 0))
    sink = None if options.sink_logits is None else op.Cast(options.sink_logits, to=dtype)
    flat = (op.Reshape(x, [0, 0, -1]) for x in (q, k, v))
    optional = () if bias is sink is None else (None, None, None, bias, sink)
    out, _, _ = group_query_attention(
        *flat, None, None, last, op.Squeeze(length, [0]), *optional,
        num_heads=call.num_heads, kv_num_heads=call.num_kv_heads, local_window_size=keys,
        scale=float(options.softmax_scale), softcap=float(options.softcap),
    )  # fmt: skip
    return op.Reshape(out, [0, 0, call.num_heads, -1])


def _wider(
    call: Call, q: Any, k: Any, v: Any, valid: Any, width: int, values: bool = True
) -> tuple[Any, Any, Any]:
    """q, k and v with heads of this width; without `values` v stays as it is."""
    if valid is not None:
        dtype = call.q.dtype
        hidden = op.Where(valid, number(0.0, dtype), number(INVISIBLE[dtype], dtype))
        q, k = _with_column(q, number(1.0, dtype)), _with_column(k, op.Unsqueeze(hidden, [2, 3]))
    missing = width - call.head_dim - (valid is not None)
    q, k = (_with_zeros(x, missing, call) for x in (q, k))
    return q, k, _with_zeros(v, width - call.head_dim_v, call) if values else v


def _with_column(x: Any, values: Any) -> Any:
    return op.Concat(x, op.Expand(values, sizes(op.Shape(x, start=0, end=3), 1)), axis=3)


def _with_zeros(x: Any, number_of_columns: int, call: Call) -> Any:
    if not number_of_columns:
        return x
    shape = sizes(op.Shape(x, start=0, end=3), number_of_columns)
    return op.Concat(x, op.Expand(number(0.0, call.q.dtype), shape), axis=3)


def _with_rows(x: Any, rows: Any, dim: int, *, after: bool) -> Any:
    """x with `rows` rows of 0 or False at the end of a dimension, or at its beginning."""
    shape = sizes(op.Shape(x, start=0, end=dim), rows, op.Shape(x, start=dim + 1))
    blank = op.Expand(op.CastLike(op.Constant(value_int=0), x), shape)
    return op.Concat(*((x, blank) if after else (blank, x)), axis=dim)


def _sees_a_key(call: Call, valid: Any, shift: Any, keys: int) -> Any:
    """(batch, seqlen, 1, 1) bool: whether a query sees a valid key, by the number of those before."""
    until = op.CumSum(op.Cast(valid, to=_INT64), 1)
    before = op.CastLike(op.Constant(value_int=0), until)
    if keys >= 0:
        rows = op.Min(size(until, 1), op.Constant(value_ints=[keys]))
        before = _with_rows(until, rows, 1, after=False)
    first = op.Constant(value_ints=[0]) if shift is None else shift
    end = op.Add(first, size(call.q, 1))
    if keys >= 0:
        before = op.Slice(before, first, end, [1])
    return op.Unsqueeze(op.Greater(op.Slice(until, first, end, [1]), before), [2, 3])


def _zero_without_keys(out: Any, sees: Any) -> Any:
    return op.Where(sees, out, op.CastLike(op.Constant(value_float=0.0), out))


def _int32(x: int) -> Any:
    return op.Constant(value=ir.tensor(x, dtype=_INT32))


def _multiple_of_8(x: int) -> int:
    return -(-x // 8) * 8
