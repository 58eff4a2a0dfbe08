"""Integer arguments: one checker, which accepts the integers of Python and numpy, and no bool or tensor."""

import re
from fractions import Fraction

import numpy
import pytest
import torch

import lckernels
from lckernels import Layout, Plan, Score, checks

INTEGERS = (int, numpy.int64, numpy.int32, numpy.int16, numpy.uint8, numpy.array)
NO_INTEGERS = (True, numpy.True_, numpy.array(True), 2.0, numpy.float32(2), Fraction(2), "2", None, [2])


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_numpy_become_ints(kind):
    got = checks.integer("size", kind(7), 1, 8)
    assert (got, type(got)) == (7, int)


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_what_is_no_integer(value):
    with pytest.raises(TypeError, match=f"^{re.escape(f'size: got {value!r}; expected an int >= 1')}$"):
        checks.integer("size", value, 1)


@pytest.mark.parametrize("value", [torch.tensor(3), torch.tensor([3]), torch.tensor(True)])
def test_a_tensor_is_no_integer(value):
    with pytest.raises(TypeError, match=r"^size: got a tensor; expected an int$"):
        checks.integer("size", value)


def test_range():
    for value, wrong in ((8, False), (1, False), (0, True), (9, True), (numpy.int64(9), True)):
        if wrong:
            message = f"size: got {int(value)}; expected an int >= 1 and at most 8"
            with pytest.raises(ValueError, match=rf"^{message}$"):
                checks.integer("size", value, 1, 8)
        else:
            assert checks.integer("size", value, 1, 8) == value
    assert checks.integer("size", -5) == -5, "without a minimum no range is checked"


@pytest.mark.parametrize(
    ("values", "ndim", "expected"),
    [
        ([1, numpy.int64(2)], 1, [1, 2]),
        ((numpy.uint8(1), 2), 1, [1, 2]),
        (numpy.array([1, 2], dtype=numpy.uint16), 1, [1, 2]),
        (torch.tensor([1, 2], dtype=torch.uint8), 1, [1, 2]),
        (numpy.array([[1, 2]]), 2, [[1, 2]]),
        ([], 1, []),
    ],
)
def test_sequences(values, ndim, expected):
    got = checks.integers("values", values, ndim)
    assert (got.tolist(), got.dtype, got.device.type) == (expected, torch.int64, "cpu")


@pytest.mark.parametrize(
    "values",
    [[1.0], [True, False], numpy.array([True]), ["a"], [[1], [1, 2]], [[1]], 3, None, [2**70]],
    ids=repr,
)
def test_what_is_no_sequence(values):
    with pytest.raises(ValueError, match=r"^values: got .*; expected a sequence of integers$"):
        checks.integers("values", values)


def test_one_integer_is_a_sequence_where_that_is_allowed():
    for value in (3, numpy.int64(3), torch.tensor(3)):
        assert checks.integers("lengths", value, single=True).tolist() == [3]


def test_attention():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 9, 2, 8, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 5)

    def run(kind):
        number = {"offset": kind(1), "sink_tokens": kind(1), "chunk": kind(4), "chunk_origin": kind(-2)}
        layout = Layout(**number, max_seqlen_k=kind(9))
        score = Score(rel_bias=bias, bias_center=kind(2), softcap=kind(20))
        window = (kind(3), kind(0))
        out = lckernels.windowed_attention(
            q, k, v, window_size=window, layout=layout, score=score, softmax_scale=kind(1)
        )
        return out, *torch.autograd.grad(out.sum(), (q, k, v))

    for got, expected in zip(run(numpy.int64), run(int), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("value", [True, numpy.True_, 1.0, torch.tensor(1)])
def test_attention_rejects(value):
    q = torch.randn(1, 4, 2, 8)
    for name in ("sink_tokens", "chunk", "max_seqlen_q"):
        with pytest.raises(TypeError, match=rf"^layout.{name}: got .*; expected an int >= 0$"):
            lckernels.windowed_attention(q, q, q, layout=Layout(**{name: value}))
    with pytest.raises(TypeError, match=r"^window_size left: got .*; expected an int >= -1$"):
        lckernels.windowed_attention(q, q, q, window_size=(value, 0))


def test_numbers_of_numpy():
    q = torch.randn(1, 4, 2, 8)
    got = lckernels.windowed_attention(q, q, q, softmax_scale=numpy.float32(0.5))
    assert torch.equal(got, lckernels.windowed_attention(q, q, q, softmax_scale=0.5))
    for value in (numpy.True_, True, "1", 1j, torch.tensor(1.0)):
        with pytest.raises(TypeError, match=r"^softmax_scale: got .*; expected a number$"):
            lckernels.windowed_attention(q, q, q, softmax_scale=value)


def test_plans():
    def sizes(plan):
        return plan.num_chunks, plan.chunk_len, plan.total_len

    for kind in (numpy.int64, numpy.uint8):
        planned = lckernels.plan_chunks(
            kind(40), kind(11), kind(3), num_leading=kind(1), num_trailing=kind(1)
        )
        expected = lckernels.plan_chunks(40, 11, 3, num_leading=1, num_trailing=1)
        assert torch.equal(planned.segments, expected.segments)
        assert sizes(planned) == sizes(expected)
        assert {type(size) for size in sizes(planned)} == {int}
        table = numpy.array([[0, 0, 0, 5]], dtype=numpy.int32)
        plan = Plan.from_segments(table, num_chunks=kind(1), chunk_len=kind(6), total_len=kind(5))
        assert sizes(plan) == (1, 6, 5)
        assert {type(size) for size in sizes(plan)} == {int}
    for value in (True, 8.0, "8", torch.tensor(8)):
        with pytest.raises(TypeError, match=r"^chunk_len: got .*; expected an int >= 0$"):
            lckernels.plan_chunks(10, value, 2)
        with pytest.raises(TypeError, match=r"^num_chunks: got .*; expected an int >= 0$"):
            Plan.from_segments([[0, 0, 0, 5]], num_chunks=value, chunk_len=6, total_len=5)
