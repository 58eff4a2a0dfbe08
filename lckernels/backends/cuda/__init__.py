"""CUDA C++ on NVIDIA GPUs: the private ops of _C_cuda.so (csrc/cuda), with their outputs allocated here."""

import torch

from lckernels.backends.cuda import attention, chunked, overlap, states
from lckernels.backends.cuda.library import large_blocks, unavailable
from lckernels.backends.registry import Backend, Problem, by_name
from lckernels.dtypes import FLOATS

# Largest head dims of the ops that multiply matrices, by the shared memory of the GPU.
_HEAD_DIMS = {"windowed_attention": 256, "chunked_attention": 128}
_SMALL_BLOCKS_HEAD_DIMS = {"windowed_attention": 96, "chunked_attention": 64}
_ATTENTION_DTYPES = (torch.bfloat16, torch.float16)
MAX_SEQLEN = 2**30  # positions in a sequence are int32


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if problem.device_type != "cuda":
        return [f"it supports tensors on an NVIDIA GPU, not on {problem.device_type}"]
    if missing := unavailable():
        return [missing]
    found = []
    if problem.op not in BACKEND.ops:
        found.append(f"it has no kernel for {problem.op}")
    if problem.dtype not in (_ATTENTION_DTYPES if problem.op in _HEAD_DIMS else FLOATS):
        found.append(f"it has no kernel for {problem.dtype}")
    if problem.op in _HEAD_DIMS:
        limits = _HEAD_DIMS if large_blocks() else _SMALL_BLOCKS_HEAD_DIMS
        found += _attention_reasons(problem, limits[problem.op])
    if problem.op == "merge_attention_states" and len(problem.shapes) > states.MAX_STATES:
        found.append(f"it merges up to {states.MAX_STATES} states, got {len(problem.shapes)}")
    return found


def _attention_reasons(problem: Problem, max_head_dim: int) -> list[str]:
    found = ["it has no kernel for segment_ids"] if problem.segmented else []
    head_dims = [shape[-1] for shape in problem.shapes]
    wrong = next((dim for dim in head_dims if dim % 8 or dim > max_head_dim), None)
    if wrong is not None:
        found.append(f"its head dims are multiples of 8 up to {max_head_dim} here, got {wrong}")
    seqlen = max((shape[-3] for shape in problem.shapes), default=0)
    if seqlen > MAX_SEQLEN:
        found.append(f"its longest sequence has {MAX_SEQLEN} positions, got {seqlen}")
    return found


BACKEND = Backend(
    "cuda",
    ops=by_name(
        overlap.overlap_merge,
        overlap.overlap_merge_backward,
        overlap.overlap_split,
        overlap.overlap_split_backward,
        attention.windowed_attention,
        attention.windowed_attention_backward,
        chunked.chunked_attention,
        chunked.chunked_attention_backward,
        states.merge_attention_states,
        states.merge_attention_states_backward,
    ),
    reasons=reasons,
    unavailable=unavailable,
)
