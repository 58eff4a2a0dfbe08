"""windowed_attention and merge_attention_states in ONNX operators; all scores are a tensor of the graph."""

from typing import Any

import onnxscript.ir as ir
from onnxscript import opset18 as op

from lckernels.onnx.call import Call
from lckernels.onnx.visible import key_positions, size, sizes, steps, visible_keys

_DOUBLE, _FLOAT, _BOOL = ir.DataType.DOUBLE, ir.DataType.FLOAT, ir.DataType.BOOL


def attend(call: Call) -> tuple[Any, Any]:
    """out (batch, seqlen_q, num_heads, head_dim_v) in q's dtype, and lse (batch, num_heads, seqlen_q)."""
    dtype = _DOUBLE if call.q.dtype == _DOUBLE else _FLOAT
    s = _scores(call, dtype)
    seen = visible_keys(call)
    low = number(-float("inf"), dtype)
    if seen is not None:
        s = op.Where(op.Unsqueeze(seen, [1]), s, low)
    row_max, sink = op.ReduceMax(s, [3], keepdims=1), call.options.sink_logits
    if sink is not None:
        sink = op.Reshape(op.Cast(sink, to=dtype), [1, -1, 1, 1])
        row_max = op.Max(row_max, sink)
    zero, one = number(0.0, dtype), number(1.0, dtype)
    row_max = op.Where(op.Equal(row_max, low), zero, row_max)
    e = op.Exp(op.Sub(s, row_max))
    denominator = op.ReduceSum(e, [3], keepdims=1)
    if sink is not None:
        denominator = op.Add(denominator, op.Exp(op.Sub(sink, row_max)))
    empty = op.Equal(denominator, zero)
    safe = op.Where(empty, one, denominator)
    grouped = op.Reshape(e, sizes(0, call.num_kv_heads, -1, size(call.k, 1)))
    values = op.Transpose(op.Cast(call.v, to=dtype), perm=[0, 2, 1, 3])
    shape = sizes(0, call.num_heads, size(call.q, 1), call.head_dim_v)
    out = op.Div(op.Reshape(op.MatMul(grouped, values), shape), safe)
    out = op.Cast(op.Transpose(out, perm=[0, 2, 1, 3]), to=call.q.dtype)
    return out, op.Squeeze(op.Where(empty, low, op.Add(row_max, op.Log(safe))), [3])


def _scores(call: Call, dtype: ir.DataType) -> Any:
    """(batch, num_heads, seqlen_q, seqlen_k), before the mask."""
    options = call.options
    q = op.Transpose(op.Cast(call.q, to=dtype), perm=[0, 2, 1, 3])
    rows = op.Reshape(q, [0, call.num_kv_heads, -1, call.head_dim])  # the heads of a group are rows
    keys = op.Transpose(op.Cast(call.k, to=dtype), perm=[0, 2, 3, 1])
    s = op.MatMul(op.Mul(rows, number(options.softmax_scale, dtype)), keys)
    s = op.Reshape(s, sizes(0, call.num_heads, size(call.q, 1), size(call.k, 1)))
    if options.softcap:
        cap = number(options.softcap, dtype)
        s = op.Mul(op.Tanh(op.Div(s, cap)), cap)
    return s if options.rel_bias is None else op.Add(s, bias_by_distance(call, dtype))


def bias_by_distance(call: Call, dtype: ir.DataType) -> Any:
    """rel_bias of each query and key: (batch or 1, num_heads, seqlen_q, seqlen_k)."""
    options = call.options
    keys = op.Reshape(steps(size(call.k, 1)), [1, 1, -1])
    distance = op.Sub(keys, key_positions(call))
    last = op.Sub(size(options.rel_bias, 1), 1)
    columns = op.Min(op.Max(op.Add(distance, options.bias_center), 0), last)
    bias = op.Gather(op.Cast(options.rel_bias, to=dtype), columns, axis=1)
    return op.Transpose(bias, perm=[1, 0, 2, 3])


def number(x: float, dtype: ir.DataType) -> Any:
    """A constant () of this dtype."""
    return op.Constant(value=ir.tensor(x, dtype=dtype))


def merge_states(outs: list[Any], lses: list[Any]) -> tuple[Any, Any]:
    """merge_attention_states."""
    dtype = lses[0].dtype
    low, zero, one = (number(x, dtype) for x in (-float("inf"), 0.0, 1.0))
    row_max = lses[0] if len(lses) == 1 else op.Max(*lses)
    row_max = op.Where(op.Equal(row_max, low), zero, row_max)
    weights = [op.Exp(op.Sub(x, row_max)) for x in lses]
    total = weights[0] if len(weights) == 1 else op.Sum(*weights)
    empty = op.Equal(total, zero)
    safe = op.Where(empty, one, total)
    parts = []
    for out, weight in zip(outs, weights, strict=True):
        share = op.Unsqueeze(op.Transpose(op.Div(weight, safe), perm=[0, 2, 1]), [3])
        part = op.Mul(share, op.Cast(out, to=dtype))
        parts.append(op.Where(op.Equal(share, zero), zero, part))
    out = parts[0] if len(parts) == 1 else op.Sum(*parts)
    return op.Cast(out, to=outs[0].dtype), op.Where(empty, low, op.Add(row_max, op.Log(safe)))
