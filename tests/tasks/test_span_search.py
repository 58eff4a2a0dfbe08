"""The search for spans against loops over all pairs of tokens."""

import math
from itertools import pairwise, product

import pytest
import torch
from helpers.span_loops import all_spans, best_by_loops

from lckernels.tasks.answering.span_search import FoundSpan, best_by_start, best_spans, log_sum_of_spans


def draw(size, seed, ties):
    """Start and end scores; with ties of three values, and some excluded."""
    generator = torch.Generator().manual_seed(seed)
    if not ties:
        return torch.randn(2, size, generator=generator).double()
    scores = torch.randint(0, 3, (2, size), generator=generator).double()
    return scores.masked_fill(torch.rand(2, size, generator=generator) < 0.2, -math.inf)


@pytest.mark.parametrize("ties", [False, True])
def test_the_best_spans_are_those_of_loops_over_all_pairs(ties):
    for size, max_tokens, seed in product(range(1, 12), (1, 2, 3, 5, 8, 30), range(4)):
        starts, ends = draw(size, seed, ties)
        for top_k in (1, 3, 20):
            found = best_spans(starts, ends, max_tokens, top_k)
            expected = best_by_loops(starts.tolist(), ends.tolist(), max_tokens, top_k)
            assert found == expected, (size, max_tokens, seed, top_k)
        best = [max(starts[i].item() + e for e in ends[i : i + max_tokens].tolist()) for i in range(size)]
        assert best_by_start(starts, ends, max_tokens).tolist() == best


def test_spans_of_one_group_overlap():
    for size, max_tokens, seed in product((2, 5, 9), (1, 2, 4), range(8)):
        starts, ends = draw(size, seed, ties=bool(seed % 2))
        groups = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).cumsum(0)
        found = best_spans(starts, ends, max_tokens, size, groups)
        expected = best_by_loops(starts.tolist(), ends.tolist(), max_tokens, size, groups.tolist())
        assert found == expected, (size, max_tokens, seed)


def test_the_sum_over_all_spans():
    for size, max_tokens, seed in product((1, 2, 7, 40), (1, 2, 3, 6, 7, 30, 64), range(2)):
        starts, ends = draw(size, seed, ties=False) * 20
        scores = [span.score for span in all_spans(starts.tolist(), ends.tolist(), max_tokens)]
        expected = torch.tensor(scores, dtype=torch.float64)
        total = log_sum_of_spans(starts, ends, max_tokens)
        assert total == pytest.approx(float(expected.logsumexp(0)), rel=1e-13)


def test_scores_beyond_the_range_of_exp():
    starts, ends = torch.tensor([[-900.0, 900.0, -900.0], [-2000.0, -2000.0, -2000.0]]).double()
    assert log_sum_of_spans(starts, ends, 1) == pytest.approx(-1100.0, rel=1e-15)
    nothing = torch.full((3,), -math.inf).double()
    assert log_sum_of_spans(nothing, ends, 2) == -math.inf
    assert best_spans(nothing, ends, 2, 5) == []


def test_a_long_sequence():
    """Where N x N scores would be 320 GB."""
    starts, ends = draw(200_000, 0, ties=False)
    at = 123_456
    starts[at], ends[at + 28], starts[at + 29], ends[at + 30] = 20.0, 20.0, 10.0, 100.0
    found = best_spans(starts, ends, 30, 50)  # of 30 tokens, the one that begins at `at` ends before the 100
    assert found[:2] == [FoundSpan(at + 29, at + 30, 110.0), FoundSpan(at, at + 28, 40.0)]
    taken = sorted((span.first, span.last) for span in found)
    assert len(taken) == 50
    assert all(before[1] < after[0] for before, after in pairwise(taken))
