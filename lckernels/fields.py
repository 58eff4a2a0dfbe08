"""The options of an attention as flat arguments of an op: one table, from which the rest is made."""

import dataclasses
from collections import namedtuple
from operator import attrgetter, is_, itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from lckernels.options import AttentionOptions, Layout, Score


class Field(NamedTuple):
    """One argument of the op.

    Attributes:
        name: of the argument.
        type: in the op's schema.
        place: the path of the value in `AttentionOptions`. Two fields with one place are a value that may be
            a number or a tensor: the first is the number, the second the tensor.
    """

    name: str
    type: str
    place: str


FIELDS = (
    Field("window_size", "SymInt[2]", "window_size"),
    Field("softmax_scale", "float", "softmax_scale"),
    Field("offset", "SymInt?", "layout.offset"),
    Field("offset_tensor", "Tensor?", "layout.offset"),
    Field("kv_start", "Tensor?", "layout.kv_start"),
    Field("kv_end", "Tensor?", "layout.kv_end"),
    Field("kv_mask", "Tensor?", "layout.kv_mask"),
    Field("cu_seqlens_q", "Tensor?", "layout.cu_seqlens_q"),
    Field("cu_seqlens_k", "Tensor?", "layout.cu_seqlens_k"),
    Field("max_seqlen_q", "SymInt?", "layout.max_seqlen_q"),
    Field("max_seqlen_k", "SymInt?", "layout.max_seqlen_k"),
    Field("segment_ids", "Tensor?", "layout.segment_ids"),
    Field("sink_tokens", "SymInt", "layout.sink_tokens"),
    Field("chunk", "SymInt", "layout.chunk"),
    Field("chunk_origin", "SymInt", "layout.chunk_origin"),
    Field("chunk_origin_tensor", "Tensor?", "layout.chunk_origin"),
    Field("softcap", "float", "score.softcap"),
    Field("rel_bias", "Tensor?", "score.rel_bias"),
    Field("bias_center", "SymInt", "score.bias_center"),
    Field("sink_logits", "Tensor?", "score.sink_logits"),
    Field("dropout_p", "float", "dropout_p"),
    Field("seed", "Tensor?", "seed"),
)
SCHEMA = ", ".join(f"{field.type} {field.name}" for field in FIELDS)
FlatOptions = namedtuple("FlatOptions", [field.name for field in FIELDS])
FlatOptions.__doc__ = "The values of FIELDS, in their order: the options as an op and a backend take them."
INDEX = {name: index for index, name in enumerate(FlatOptions._fields)}

# One expression: torch.compile does not trace a global attrgetter, and a loop takes 1.4 us instead of 0.4.
_PLACES = ", ".join(field.place for field in FIELDS)
_values = eval(f"lambda {', '.join(AttentionOptions._fields)}: [{_PLACES}]")
# (index of the number, index of the tensor, the number where the value is a tensor)
_PAIRS = tuple(
    (index - 1, index, None if FIELDS[index - 1].type.endswith("?") else 0)
    for index in range(1, len(FIELDS))
    if FIELDS[index].place == FIELDS[index - 1].place
)
_FIRST = {field.place: index for index, field in reversed(list(enumerate(FIELDS)))}


def _getter(group: str, options: type) -> itemgetter:
    """Of flat values those of one group, in the order of its constructor."""
    return itemgetter(*(_FIRST[f"{group}.{field.name}"] for field in dataclasses.fields(options)))


_of_layout, _of_score = _getter("layout", Layout), _getter("score", Score)


class WindowOptions(FlatOptions):
    """Options of a call with a window, a scale and a number as offset, and no others. Most calls are such."""

    __slots__ = ()


_NUM_OF_WINDOW = INDEX["offset"] + 1
tensors_of = itemgetter(*(INDEX[field.name] for field in FIELDS if field.type == "Tensor?"))


def flat_options(options: AttentionOptions) -> FlatOptions:
    """The options as an op takes them."""
    values = _values(*options)
    for number, tensor, absent in _PAIRS:
        if isinstance(values[tensor], Tensor):
            values[number] = absent
        else:
            values[tensor] = None
    if torch.compiler.is_dynamo_compiling() or not _has_window_only(values):
        return FlatOptions(*values)
    return WindowOptions._make(values)


def _has_window_only(values: list) -> bool:
    # The tensors first: a comparison with one would compute.
    return all(map(is_, tensors_of(values), _NO_TENSORS)) and values[_NUM_OF_WINDOW:] == _ABSENT


_ABSENT: list | None = None  # what follows the offset in WindowOptions
_NO_TENSORS = tensors_of([None] * len(FIELDS))
_ABSENT = list(flat_options(AttentionOptions((-1, -1), 1.0, Layout(), Score(), 0.0, None))[_NUM_OF_WINDOW:])


_beside_offset = attrgetter(*(field.name for field in dataclasses.fields(Layout) if field.name != "offset"))
_DEFAULTS = _beside_offset(Layout())


def has_offset_only(layout: Layout | None) -> bool:
    """Whether the layout is None, the default, or a number as offset; False while torch.compile traces."""
    if torch.compiler.is_dynamo_compiling():
        return False
    if layout is None:
        return True
    if type(layout) is not Layout or not (layout.offset is None or type(layout.offset) is int):
        return False
    return all(map(is_, _beside_offset(layout), _DEFAULTS))


def window_options(
    window_size: tuple[int, int], softmax_scale: float, offset: int | None = None
) -> FlatOptions:
    """The options of a call without other parts of a layout, score and dropout."""
    if torch.compiler.is_dynamo_compiling():
        return FlatOptions(window_size, softmax_scale, offset, *_ABSENT)
    return WindowOptions._make((window_size, softmax_scale, offset, *_ABSENT))


def grouped_options(flat: FlatOptions) -> AttentionOptions:
    """The inverse of `flat_options`."""
    values = list(flat)
    for number, tensor, _ in _PAIRS:
        if values[tensor] is not None:
            values[number] = values[tensor]
    layout, score = Layout(*_of_layout(values)), Score(*_of_score(values))
    window_size = tuple(flat.window_size)
    return AttentionOptions(window_size, flat.softmax_scale, layout, score, flat.dropout_p, flat.seed)
