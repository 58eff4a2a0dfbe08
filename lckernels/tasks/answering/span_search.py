"""The best spans of a sequence by the sum of a start and an end score, in memory linear in its tokens.

A span is a pair (first, last) of tokens, both part of it, with first <= last < first + max_tokens; its score
is starts[first] + ends[last]. Scores are float64, and -inf excludes a token as a start or an end.
"""

from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class FoundSpan:
    """A span of tokens.

    Attributes:
        first: its first token.
        last: its last token.
        score: the sum of its start score and its end score.
    """

    first: int
    last: int
    score: float


def best_spans(
    starts: Tensor, ends: Tensor, max_tokens: int, top_k: int, groups: Tensor | None = None
) -> list[FoundSpan]:
    """The best spans without overlap, best first: each is the best that shares no token with those before.

    Of spans with equal scores the first is taken, and of those with one start the shortest. Spans of score
    -inf are not found.

    Args:
        starts: (num_tokens,) float64 on the CPU, without NaN and +inf.
        ends: (num_tokens,) float64 on the CPU, likewise.
        max_tokens: the most tokens of a span, at least 1.
        top_k: the most spans.
        groups: (num_tokens,) int64 that never fall: spans overlap too if they have tokens of one group, such
            as the bytes of a character. Default: each token is a group.
    """
    best = best_by_start(starts, ends, max_tokens)
    groups = torch.arange(len(starts), device="cpu") if groups is None else groups
    taken: list[tuple[int, int]] = []  # half-open ranges of tokens, rising
    found: list[FoundSpan] = []
    while len(found) < top_k and len(best):
        first = int(best.argmax())  # the first of several
        score = float(best[first])
        if score == -torch.inf:
            break
        at = bisect(taken, (first, 0))
        stop = taken[at][0] if at < len(taken) else len(starts)
        last = first + int(ends[first : min(first + max_tokens, stop)].argmax())
        found.append(FoundSpan(first, last, score))
        begin, end = _whole_groups(groups, first, last)
        # Spans that begin before the taken ones end before them; others' best ends are the same.
        low = max(begin - max_tokens + 1, taken[at - 1][1] if at else 0)
        if low < begin:
            best[low:begin] = starts[low:begin] + ends[low:begin].flip(0).cummax(0).values.flip(0)
        best[begin:end] = -torch.inf
        taken.insert(at, (begin, end))
    return found


def best_by_start(starts: Tensor, ends: Tensor, max_tokens: int) -> Tensor:
    """(num_tokens,) float64: the score of the best span that begins at each token; as in `best_spans`."""
    return starts + _over_windows(ends, max_tokens, torch.maximum)


def log_sum_of_spans(starts: Tensor, ends: Tensor, max_tokens: int) -> float:
    """The logarithm of the sum of exp(score) over all spans. Arguments as in `best_spans`."""
    return float((starts + _over_windows(ends, max_tokens, torch.logaddexp)).logsumexp(0))


def _over_windows(values: Tensor, width: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(num_tokens,): the values from each token on, `width` of them or as many as there are, combined.

    Windows of each power of two are made of two of half the size, so the cost is num_tokens * log(width).
    """
    width = min(width, len(values))
    result, covered = torch.full_like(values, -torch.inf), 0
    part, size = values, 1
    while width:
        if width % 2:
            result, covered = combine(result, _shifted(part, covered)), covered + size
        width //= 2
        if width:
            part, size = combine(part, _shifted(part, size)), 2 * size
    return result


def _shifted(values: Tensor, count: int) -> Tensor:
    """Values `count` places later, -inf behind the last."""
    return F.pad(values[count:], (0, min(count, len(values))), value=-torch.inf)


def _whole_groups(groups: Tensor, first: int, last: int) -> tuple[int, int]:
    """The half-open range of the tokens whose groups are those of the tokens from first to last."""
    begin = torch.searchsorted(groups, groups[first])
    end = torch.searchsorted(groups, groups[last], right=True)
    return int(begin), int(end)
