"""CUDA C++ on NVIDIA GPUs: the private ops of _C_cuda.so (csrc/cuda), with their outputs allocated here."""

import torch

from lckernels.backends.cuda.attention import windowed_attention, windowed_attention_backward
from lckernels.backends.cuda.chunked import chunked_attention, chunked_attention_backward
from lckernels.backends.cuda.library import large_blocks, unavailable
from lckernels.backends.cuda.overlap import (
    overlap_merge,
    overlap_merge_backward,
    overlap_split,
    overlap_split_backward,
)
from lckernels.backends.cuda.states import (
    MAX_STATES,
    merge_attention_states,
    merge_attention_states_backward,
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

_OPS = ("overlap_merge", "overlap_split", "windowed_attention", "chunked_attention", "merge_attention_states")
# Most elements of a head in the ops that multiply matrices.
_HEAD_DIMS = {"windowed_attention": 256, "chunked_attention": 128}
_SMALL_BLOCKS_HEAD_DIMS = {"windowed_attention": 96, "chunked_attention": 64}
_ATTENTION_DTYPES = (torch.bfloat16, torch.float16)
_DTYPES = (torch.float32, *_ATTENTION_DTYPES, torch.float64)
MAX_SEQLEN = 2**30  # places in a text are int32


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if problem.device_type != "cuda":
        return [f"it serves tensors on an NVIDIA GPU, not on {problem.device_type}"]
    if missing := unavailable():
        return [missing]
    found = []
    if problem.op not in _OPS:
        found.append(f"it has no kernel for {problem.op}")
    if problem.dtype not in (_ATTENTION_DTYPES if problem.op in _HEAD_DIMS else _DTYPES):
        found.append(f"it has no kernel for {problem.dtype}")
    if problem.op in _HEAD_DIMS:
        limits = _HEAD_DIMS if large_blocks() else _SMALL_BLOCKS_HEAD_DIMS
        found += _attention_reasons(problem, limits[problem.op])
    if problem.op == "merge_attention_states" and len(problem.shapes) > MAX_STATES:
        found.append(f"it merges up to {MAX_STATES} states, got {len(problem.shapes)}")
    return found


def _attention_reasons(problem: Problem, max_head_dim: int) -> list[str]:
    found = ["it has no kernel for segment_ids"] if problem.segmented else []
    head_dims = [shape[-1] for shape in problem.shapes]
    wrong = next((dim for dim in head_dims if dim % 8 or dim > max_head_dim), None)
    if wrong is not None:
        found.append(f"its head dims are multiples of 8 up to {max_head_dim} here, got {wrong}")
    seqlen = max((shape[-3] for shape in problem.shapes), default=0)
    if seqlen > MAX_SEQLEN:
        found.append(f"its sequences end at {MAX_SEQLEN}, got {seqlen}")
    return found
