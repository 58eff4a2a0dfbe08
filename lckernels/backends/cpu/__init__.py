"""C++ on the CPU: the private ops of _C.so (csrc/cpu)."""

from lckernels.backends.cpu import attention, chunked, library, overlap
from lckernels.backends.registry import Backend, Problem, by_name
from lckernels.dtypes import FLOATS


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if library.UNAVAILABLE:
        return [library.UNAVAILABLE]
    found = []
    if problem.device_type != "cpu":
        found.append(f"it supports tensors on the CPU, not on {problem.device_type}")
    if problem.op not in BACKEND.ops:
        found.append(f"it has no kernel for {problem.op}")
    if problem.dtype not in FLOATS:
        found.append(f"it has no kernel for {problem.dtype}")
    return found


BACKEND = Backend(
    "cpu",
    ops=by_name(
        overlap.overlap_merge,
        overlap.overlap_merge_backward,
        overlap.overlap_split,
        overlap.overlap_split_backward,
        attention.windowed_attention,
        attention.windowed_attention_backward,
        chunked.chunked_attention,
        chunked.chunked_attention_backward,
        attention.merge_attention_states,
        attention.merge_attention_states_backward,
    ),
    reasons=reasons,
    unavailable=lambda: library.UNAVAILABLE,
    window_forward=None if library.UNAVAILABLE else library.unwrapped("window_forward"),
)
