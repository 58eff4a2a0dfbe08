"""windowed_attention of few queries against many keys, which are read in place."""

import pytest
import torch
from helpers.attention_problem import Problem, with_tensors
from helpers.backends import scaled_count, supported
from helpers.compare_attention import (
    assert_same_bits,
    compare_poisoned,
    compare_problem,
    forward_backward,
    run_backend,
)

from lckernels import Layout, Score, windowed_attention
from lckernels.options import AttentionOptions

pytestmark = [
    pytest.mark.isa,
    pytest.mark.isa_all,
    pytest.mark.triton_all,
    pytest.mark.usefixtures("one_thread"),
]

KEYS = max(scaled_count(2100), 700)  # keys in several splits; a partial last tile
DTYPES = supported(torch.float32, torch.bfloat16, torch.float16, torch.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# Queries, heads and key heads: below, at and above what is read in place.
by_rows = pytest.mark.parametrize(
    "rows", [(1, 3, 3), (1, 8, 2), (3, 4, 2), (2, 8, 2), (3, 6, 2)], ids=["1", "4", "6", "8", "9"]
)


def problem_of(
    rows, dtype, *, window_size=(-1, 0), dropout_p=0.0, layout=None, score=None, dims=(64, 32), keys=KEYS
):
    seqlen_q, num_heads, num_kv_heads = rows
    shapes = (
        (2, seqlen_q, num_heads, dims[0]),
        (2, keys, num_kv_heads, dims[0]),
        (2, keys, num_kv_heads, dims[1]),
        (2, seqlen_q, num_heads, dims[1]),
    )
    q, k, v, dout = (torch.randn(shape).to(dtype) for shape in shapes)
    dlse = torch.randn(2, num_heads, seqlen_q).to(torch.promote_types(dtype, torch.float32))
    seed = torch.tensor([7]) if dropout_p else None
    options = AttentionOptions(
        window_size, dims[0] ** -0.5, layout or Layout(), score or Score(), dropout_p, seed
    )
    return Problem(q, k, v, options, dout, dlse)


@by_dtype
@by_rows
@pytest.mark.parametrize("window_size", [(-1, 0), (130, 0)], ids=["full", "w131"])
def test_against_the_reference(rows, dtype, window_size):
    compare_problem(problem_of(rows, dtype, window_size=window_size))


@pytest.mark.parametrize("keys", [1024, 1025, 1029, 1088, 2049, 14400])
def test_numbers_of_splits(keys):
    """Parts of 16 tiles at most: one, two, four and sixteen, of equal and of unequal numbers of tiles."""
    compare_problem(problem_of((1, 6, 2), torch.float32, keys=scaled_count(keys)))


@by_dtype
def test_every_option_of_score(dtype):
    layout = Layout(
        offset=torch.tensor([KEYS - 40, 700]),
        kv_start=torch.tensor([3, 0]),
        kv_end=torch.tensor([KEYS - 30, KEYS]),
        sink_tokens=5,
    )
    score = Score(softcap=20.0, rel_bias=torch.randn(8, 99), bias_center=98, sink_logits=torch.randn(8))
    score = score if dtype != torch.float64 else Score(softcap=20.0)
    compare_problem(
        problem_of((2, 8, 2), dtype, window_size=(700, 0), layout=layout, score=score, dropout_p=0.3)
    )


@by_dtype
@by_rows
def test_heads_apart_or_beside_each_other_give_the_same_bits(rows, dtype):
    problem = problem_of(rows, dtype)
    apart = with_tensors(problem, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2))
    assert_same_bits(forward_backward(run_backend, apart), forward_backward(run_backend, problem))


@by_dtype
@pytest.mark.parametrize("of", ["k", "v"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_nonfinite_values(dtype, of, value):
    problem = problem_of((2, 8, 2), dtype, window_size=(300, 0))
    x = getattr(problem, of)
    x[0, KEYS - 400, 0, 3] = value  # hidden
    x[1, KEYS - 302, 1, 5] = value  # the first key of the first query alone
    compare_poisoned(problem)


@by_dtype
@pytest.mark.parametrize("keys", [5, 64, 300])
def test_heads_together_give_the_bits_of_each_head_alone(dtype, keys):
    q, k, v = (torch.randn(1, length, 8, 64).to(dtype) for length in (1, keys, keys))
    together = windowed_attention(q, k, v, window_size=(-1, 0))
    alone = [windowed_attention(*(x[:, :, h : h + 1] for x in (q, k, v))) for h in range(8)]
    torch.testing.assert_close(together, torch.cat(alone, dim=2), rtol=0, atol=0)
