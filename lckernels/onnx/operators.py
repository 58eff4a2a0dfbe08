"""onnxruntime's operators of attention, as functions that add a node to the graph of an export."""

from collections.abc import Callable

import onnx
import onnxscript
import onnxscript.ir as ir

_DOMAIN = "com.microsoft"
_OPSET = onnxscript.values.Opset(_DOMAIN, 1)
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]

# The score of an invalid key, before softmax_scale: finite, since onnxruntime makes NaN of a row of -inf.
INVISIBLE = {ir.DataType.FLOAT: -1e30, ir.DataType.BFLOAT16: -1e30, ir.DataType.FLOAT16: -6e4}


def _operator(
    name: str, inputs: tuple[str, ...], attributes: tuple[str, ...], outputs: tuple[str, ...] = ("output",)
) -> Callable:
    """An operator as a function.

    Args:
        name: of the operator.
        inputs: in order; those with a colon are int32, and those with a question mark are optional.
        attributes: names; those with a colon are float, others int.
        outputs: names.
    """
    parameter, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    options = onnx.defs.OpSchema.FormalParameterOption
    kinds = onnx.defs.OpSchema.AttrType
    schema = onnx.defs.OpSchema(
        name,
        _DOMAIN,
        1,
        inputs=[
            parameter(
                x.strip(":?"),
                "M" if ":" in x else "T",
                param_option=options.Optional if "?" in x else options.Single,
            )
            for x in inputs
        ],
        outputs=[parameter(x, "T") for x in outputs],
        type_constraints=[("T", _FLOATS, ""), ("M", ["tensor(int32)"], "")],
        attributes=[
            attribute(x.strip(":"), kinds.FLOAT if ":" in x else kinds.INT, required=False)
            for x in attributes
        ],
    )
    return onnxscript.values.Op(_OPSET, name, schema)


group_query_attention = _operator(
    "GroupQueryAttention",
    (
        "query", "key", "value", "past_key?", "past_value?", "seqlens_k:", "total_sequence_length:",
        "cos_cache?", "sin_cache?", "position_ids?", "attention_bias?", "head_sink?",
    ),
    ("num_heads", "kv_num_heads", "local_window_size", "scale:", "softcap:"),
    ("output", "present_key", "present_value"),  # without the last two it stores all scores
)  # fmt: skip
multi_head_attention = _operator(
    "MultiHeadAttention", ("query", "key", "value"), ("num_heads", "scale:", "unidirectional")
)
