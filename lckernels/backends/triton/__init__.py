"""Triton kernels: GPUs that Triton supports, and the CPU in Triton's interpreter."""

from functools import cache
from importlib.util import find_spec

import torch

from lckernels.backends.registry import Backend, Problem, by_name

_INSTALLED = find_spec("triton") is not None
if _INSTALLED:
    from lckernels.backends.triton import attention, chunked, overlap, states
    from lckernels.backends.triton.launch import interpreted

_ATTENTION_OPS = ("windowed_attention", "chunked_attention")  # these multiply matrices
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_HEAD_DIM = 256
MAX_SEQLEN = 2**30  # positions in a sequence are int32


@cache
def unavailable() -> str:
    """Why this backend cannot run on this machine; empty when it can."""
    if not _INSTALLED:
        return "Triton is not installed (pip install triton)"
    if not torch.cuda.is_available() and not interpreted():
        return "no GPU that torch can use (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter)"
    return ""


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if missing := unavailable():
        return [missing]
    found = []
    if problem.device_type != ("cpu" if interpreted() else "cuda"):
        found.append(f"it supports tensors on a GPU, not on {problem.device_type}")
    elif interpreted() and not problem.explicit:
        found.append("Triton's interpreter runs only with backend='triton'")
    if problem.op not in BACKEND.ops:
        found.append(f"it has no kernel for {problem.op}")
    return found + _attention_reasons(problem) if problem.op in _ATTENTION_OPS else found


def _attention_reasons(problem: Problem) -> list[str]:
    found = []
    if problem.dtype not in _DTYPES:
        found.append(f"it has no kernel for {problem.dtype}")
    if interpreted() and problem.dtype == torch.bfloat16:
        found.append("Triton's interpreter has wrong results for products of bf16 matrices")
    head_dim = max((shape[-1] for shape in problem.shapes), default=0)
    if head_dim > MAX_HEAD_DIM:
        found.append(f"its largest head dim is {MAX_HEAD_DIM}, got {head_dim}")
    seqlen = max((shape[-3] for shape in problem.shapes), default=0)
    if seqlen > MAX_SEQLEN:
        found.append(f"its longest sequence has {MAX_SEQLEN} positions, got {seqlen}")
    return found


BACKEND = Backend(
    "triton",
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
    )
    if _INSTALLED
    else {},
    reasons=reasons,
    unavailable=unavailable,
)
