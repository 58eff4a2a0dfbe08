"""The table that torch.onnx.export takes."""

import math
from collections.abc import Callable
from operator import getitem
from typing import Any

import torch
from onnxscript import opset18 as op

from lckernels.fields import FlatOptions
from lckernels.onnx import plain, runtime
from lckernels.onnx.call import Call, operator
from lckernels.ops import attention, states  # noqa: F401  defines the ops

_BY_RUNTIME = {
    "gqa": runtime.windowed_by_group_query_attention,
    "gqa with bias": runtime.biased_group_query_attention,
    "mha": runtime.full_by_multi_head_attention,
}


def translation_table(*, standard: bool = False) -> dict[Callable, Callable]:
    """How torch.onnx.export translates the ops of attention.

    Args:
        standard: only operators of ONNX, for runtimes other than onnxruntime. Attention then makes a tensor
            of all scores, in fp32 (fp64 for fp64).

    Returns:
        For `torch.onnx.export(model, ..., dynamo=True, custom_translation_table=translation_table())`.
        windowed_attention and merge_attention_states are in it. An export raises `NotTranslated` within
        torch.onnx's ConversionError for dropout and for packed input by cu_seqlens.
    """

    def windowed_attention(q: Any, k: Any, v: Any, *arguments: Any) -> tuple[Any, Any]:
        call = Call(q, k, v, FlatOptions._make(arguments[:-1]))
        own = None if standard else _BY_RUNTIME.get(operator(call))
        if own is None:
            return plain.attend(call)
        lse = plain.attend(call)[1] if _reads_lse(q) else op.Constant(value_float=math.nan)
        return own(call), lse

    def merge_attention_states(outs: list[Any], lses: list[Any], *_: Any) -> tuple[Any, Any]:
        return plain.merge_states(list(outs), list(lses))

    ops = torch.ops.lckernels
    return {
        ops.windowed_attention.default: windowed_attention,
        ops.merge_attention_states.default: merge_attention_states,
    }


def _reads_lse(q: Any) -> bool:
    """Whether the exported graph reads lse of an attention of q; True where the graph is not found."""
    producer = q.producer()
    node = (q if producer is None else producer).meta.get("node")
    target = torch.ops.lckernels.windowed_attention.default
    calls = [user for user in getattr(node, "users", ()) if user.target is target]
    if not calls:
        return True
    parts = [part for call in calls for part in call.users]
    return any(part.target is not getitem or part.args[1] != 0 for part in parts if part.users)
