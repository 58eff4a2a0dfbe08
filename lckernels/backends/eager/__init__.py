"""The reference as a backend: every device, every feature, memory that grows with seqlen_q * seqlen_k."""

from lckernels.backends.eager.attention import (
    merge_attention_states,
    merge_attention_states_backward,
    windowed_attention,
    windowed_attention_backward,
)
from lckernels.backends.eager.chunked import chunked_attention, chunked_attention_backward
from lckernels.backends.eager.overlap import (
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

MAX_FALLBACK_SCORE_BYTES = 2 * 2**30


def unavailable() -> str:
    """Why this backend cannot run here; empty when it can."""
    return ""


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem when it is not asked for by name; empty when it can."""
    if problem.score_bytes > MAX_FALLBACK_SCORE_BYTES and not problem.explicit:
        size = problem.score_bytes / 2**30
        limit = f"over the limit of {MAX_FALLBACK_SCORE_BYTES // 2**30} GiB for a fallback"
        return [f"its scores need {size:.1f} GiB, {limit} (backend='eager' forces it)"]
    return []
