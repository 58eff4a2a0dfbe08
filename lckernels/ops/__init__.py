"""The public torch ops `lckernels::*`, one module a family; the only package that registers torch ops.

Each op has one Python kernel for all devices, which asks `registry.choose` for a backend. Backends have no
autograd of their own: the backward of an op is a second op. Second-order gradients raise.
"""

from lckernels.ops.attention import (
    flat_options,
    grouped_options,
    windowed_attention,
    windowed_attention_backward,
)
from lckernels.ops.chunked import chunked_attention, chunked_attention_backward
from lckernels.ops.overlap import (
    overlap_merge,
    overlap_merge_backward,
    overlap_split,
    overlap_split_backward,
)
from lckernels.ops.states import merge_attention_states, merge_attention_states_backward

__all__ = [
    "chunked_attention",
    "chunked_attention_backward",
    "flat_options",
    "grouped_options",
    "merge_attention_states",
    "merge_attention_states_backward",
    "overlap_merge",
    "overlap_merge_backward",
    "overlap_split",
    "overlap_split_backward",
    "windowed_attention",
    "windowed_attention_backward",
]
