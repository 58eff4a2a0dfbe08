"""The reference as a backend: every device and option, memory that grows with seqlen_q * seqlen_k."""

from lckernels.backends.eager import attention, chunked, overlap
from lckernels.backends.registry import Backend, Problem, by_name

MAX_FALLBACK_SCORE_BYTES = 2 * 2**30


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem unless the caller names it; empty when it can."""
    if problem.op not in BACKEND.ops:
        return [f"it has no kernel for {problem.op}"]
    if problem.score_bytes > MAX_FALLBACK_SCORE_BYTES and not problem.explicit:
        size = problem.score_bytes / 2**30
        limit = f"over the limit of {MAX_FALLBACK_SCORE_BYTES // 2**30} GiB for a fallback"
        return [f"its scores need {size:.1f} GiB, {limit} (backend='eager' forces it)"]
    return []


BACKEND = Backend(
    "eager",
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
    unavailable=lambda: "",
)
