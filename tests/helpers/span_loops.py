"""Spans of a sequence and the best of them by plain loops over all pairs of tokens."""

import math
from collections.abc import Sequence

from lckernels.tasks.answering.span_search import FoundSpan


def all_spans(starts: Sequence[float], ends: Sequence[float], max_tokens: int) -> list[FoundSpan]:
    """Every span, in the order in which ties are resolved: by its start, then the shortest first."""
    pairs = ((i, j) for i in range(len(starts)) for j in range(i, min(i + max_tokens, len(ends))))
    return [FoundSpan(i, j, starts[i] + ends[j]) for i, j in pairs]


def best_by_loops(
    starts: Sequence[float],
    ends: Sequence[float],
    max_tokens: int,
    top_k: int,
    groups: Sequence[int] | None = None,
) -> list[FoundSpan]:
    """The best spans that share no group of tokens, best first."""
    groups = range(len(starts)) if groups is None else groups
    left, found = [span for span in all_spans(starts, ends, max_tokens) if span.score > -math.inf], []
    while left and len(found) < top_k:
        best = max(left, key=lambda span: span.score)  # the first of several
        found.append(best)
        left = [
            span
            for span in left
            if groups[span.last] < groups[best.first] or groups[span.first] > groups[best.last]
        ]
    return found
