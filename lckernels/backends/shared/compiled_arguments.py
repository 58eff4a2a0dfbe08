"""Options and weights as arguments of the private ops of the compiled libraries (csrc/binding)."""

import torch
from torch import Tensor

from lckernels.fields import FIELDS, INDEX, FlatOptions

_UNUSED = slice(INDEX["max_seqlen_q"], INDEX["max_seqlen_k"] + 1)  # no kernel reads these
_TABLES = tuple(
    (index, torch.bool if field.name == "kv_mask" else torch.int64)
    for index, field in enumerate(FIELDS)
    if field.type == "Tensor?" and field.place.startswith("layout.")
)
_SCORE_TENSORS = (INDEX["rel_bias"], INDEX["sink_logits"])


def attention_arguments(options: FlatOptions, acc: torch.dtype) -> list:
    """The options with window_size as two numbers, tables in int64, tensors of the score in `acc`."""
    values = list(options)
    for index, dtype in _TABLES:
        x = values[index]
        if x is not None:
            values[index] = x.to(dtype).contiguous()
    for index in _SCORE_TENSORS:
        x = values[index]
        if x is not None:
            values[index] = x.to(acc).contiguous()
    del values[_UNUSED]
    values[:1] = values[0]
    return values


def mode_and_table(weights: str | Tensor) -> tuple[str, Tensor | None]:
    """The mode of merge weights, and the table of explicit ones."""
    return ("explicit", weights.contiguous()) if isinstance(weights, Tensor) else (weights, None)
