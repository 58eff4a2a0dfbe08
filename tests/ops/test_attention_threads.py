"""windowed_attention and threads: the same bits for any number of threads and concurrent calls."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.compare_attention import assert_same_bits, forward_backward, run_backend
from helpers.random_attention import draw_problem

pytestmark = pytest.mark.isa_all


@pytest.fixture
def problems(one_thread):
    """Small problems of every kind, and some that are large enough for several threads."""
    drawn = [draw_problem(2, index) for index in range(160)]
    scores = [p.q.shape[0] * p.q.shape[2] * p.q.shape[1] * p.k.shape[1] for p in drawn]
    large = [p for p, size in zip(drawn, scores, strict=True) if size > 60_000]
    return [*drawn[:30], *large]


def test_same_bits_for_any_number_of_threads(problems):
    want = [forward_backward(run_backend, problem) for problem in problems]
    for number in (2, 3, 5):
        torch.set_num_threads(number)
        for problem, results in zip(problems, want, strict=True):
            assert_same_bits(forward_backward(run_backend, problem), results)


def test_concurrent_calls(problems):
    want = [forward_backward(run_backend, problem) for problem in problems]
    torch.set_num_threads(2)
    rounds = 3 * list(zip(problems, want, strict=True))
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda pair: forward_backward(run_backend, pair[0]), rounds))
    for results, (_, expected) in zip(got, rounds, strict=True):
        assert_same_bits(results, expected)
