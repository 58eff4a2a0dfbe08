"""C++ on the CPU: the private ops of _C.so (csrc/cpu), with their outputs allocated here."""

import torch

from lckernels.backends.cpu.attention import (
    merge_attention_states,
    merge_attention_states_backward,
    windowed_attention,
    windowed_attention_backward,
)
from lckernels.backends.cpu.chunked import chunked_attention, chunked_attention_backward
from lckernels.backends.cpu.library import UNAVAILABLE
from lckernels.backends.cpu.overlap import (
    overlap_merge,
    overlap_merge_backward,
    overlap_split,
    overlap_split_backward,
)
from lckernels.backends.registry import Problem

__all__ = [
    "chunked_attention",
    "chunked_attention_backward",
    "merge_attention_states",
    "merge_attention_states_backward",
    "overlap_merge",
    "overlap_merge_backward",
    "overlap_split",
    "overlap_split_backward",
    "reasons",
    "unavailable",
    "windowed_attention",
    "windowed_attention_backward",
]

_OPS = (
    "overlap_merge",
    "overlap_split",
    "windowed_attention",
    "merge_attention_states",
    "chunked_attention",
)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def unavailable() -> str:
    """Why this backend cannot run here; empty when it can."""
    return UNAVAILABLE


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if UNAVAILABLE:
        return [UNAVAILABLE]
    found = []
    if problem.device_type != "cpu":
        found.append(f"it serves tensors on the CPU, not on {problem.device_type}")
    if problem.op not in _OPS:
        found.append(f"it has no kernel for {problem.op}")
    if problem.dtype not in _DTYPES:
        found.append(f"it has no kernel for {problem.dtype}")
    return found
