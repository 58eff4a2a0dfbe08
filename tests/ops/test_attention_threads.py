"""windowed_attention and threads: the same bits for any number of threads and concurrent calls."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.attention_problem import Problem
from helpers.compare_attention import assert_same_bits, compare_problem, forward_backward, run_backend
from helpers.random_attention import draw_problem

from lckernels import Layout, Score
from lckernels.options import AttentionOptions

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


LENGTH = 1000
WINDOWS = {
    "window": ((99, 0), Layout()),
    "both_sides": ((70, 130), Layout()),
    "sinks": ((99, 0), Layout(sink_tokens=70)),
    "unbounded": ((-1, -1), Layout()),
    "documents": ((99, 99), Layout(segment_ids=torch.arange(2 * LENGTH).view(2, LENGTH) // 370)),
    "padding": ((200, 0), Layout(kv_start=torch.tensor([0, 150]), kv_end=torch.tensor([LENGTH, 900]))),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_where_threads_decide_how_keys_are_packed(name, dtype, one_thread):
    """One thread packs the keys of each range of queries itself; seven pack them together, in waves."""
    window, layout = WINDOWS[name]
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, LENGTH, heads, dim) for heads, dim in ((4, 32), (2, 32), (2, 24), (4, 24)))
    q, k, v, dout = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    options = AttentionOptions(window, 0.2, layout, Score(), 0.0, None)
    problem = Problem(q, k, v, options, dout, None)
    compare_problem(problem)
    want = forward_backward(run_backend, problem)
    for number in (2, 7):
        torch.set_num_threads(number)
        assert_same_bits(forward_backward(run_backend, problem), want)


def test_concurrent_calls(problems):
    want = [forward_backward(run_backend, problem) for problem in problems]
    torch.set_num_threads(2)
    rounds = 3 * list(zip(problems, want, strict=True))
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda pair: forward_backward(run_backend, pair[0]), rounds))
    for results, (_, expected) in zip(got, rounds, strict=True):
        assert_same_bits(results, expected)
