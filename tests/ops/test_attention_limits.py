"""windowed_attention at its limits: sizes of zero, windows without a key, numbers near 2^31, large scores."""

import mmap
import sys

import pytest
import torch
from helpers.attention_problem import problem_of, with_tensors
from helpers.backends import (
    TESTED,
    not_interpreted,
    requires_dtype,
    supported,
    unsupported_reason,
)
from helpers.compare_attention import (
    assert_same_bits,
    compare_problem,
    forward_backward,
    run_backend,
    run_eager,
)

from lckernels import Layout, Score

pytestmark = [pytest.mark.isa_all, pytest.mark.triton_all, pytest.mark.usefixtures("one_thread")]

MAX = 2**31 - 1


ZERO_SIZES = {
    "batch": {"batch": 0},
    "seqlen_q": {"seqlen_q": 0},
    "seqlen_k": {"seqlen_k": 0},
    "seqlens": {"seqlen_q": 0, "seqlen_k": 0},
    "num_heads": {"num_heads": 0},
    "head_dim_v": {"head_dim_v": 0},
    "all": {"batch": 0, "seqlen_q": 0, "seqlen_k": 0, "num_heads": 0, "head_dim_v": 0},
}


@pytest.mark.parametrize("name", ZERO_SIZES)
@pytest.mark.parametrize("dtype", supported(torch.float32, torch.bfloat16), ids=str)
def test_sizes_of_zero(name, dtype):
    sizes = ZERO_SIZES[name]
    compare_problem(problem_of(**sizes, dtype=dtype))
    batch, num_heads, seqlen_k = sizes.get("batch", 1), sizes.get("num_heads", 2), sizes.get("seqlen_k", 21)
    layout = Layout(
        kv_mask=torch.ones(batch, seqlen_k, dtype=torch.bool),
        segment_ids=torch.zeros(batch, seqlen_k, dtype=torch.int64),
        sink_tokens=1,
    )
    score = Score(rel_bias=torch.randn(num_heads, 3), sink_logits=torch.randn(num_heads))
    compare_problem(
        problem_of(**sizes, dtype=dtype, window_size=(4, 1), layout=layout, score=score, dropout_p=0.2)
    )


@pytest.mark.parametrize("head_dims", ((3, 300), (257, 5), (512, 512)), ids=str)
def test_large_head_dims(head_dims):
    head_dim, head_dim_v = head_dims
    if why := unsupported_reason(torch.float32, max(head_dims)):
        pytest.skip(why)
    compare_problem(problem_of(head_dim=head_dim, head_dim_v=head_dim_v, seqlen_k=70, window_size=(40, 3)))


@pytest.mark.parametrize("bounds", ([0], [0, 0], [0, 0, 0]), ids=str)
def test_packed_input_without_tokens(bounds):
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    score = Score(rel_bias=torch.randn(2, 3), sink_logits=torch.randn(2))
    layout = Layout(cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens)
    compare_problem(problem_of(seqlen_q=0, seqlen_k=0, layout=layout, score=score))


SEE_NOTHING = {
    "left of all keys": ((3, 3), Layout(offset=-60)),
    "right of all keys": ((3, 3), Layout(offset=60)),
    "far away": ((3, 3), Layout(offset=torch.tensor([MAX]))),
    "kv_end": ((-1, -1), Layout(kv_end=torch.tensor([-3]))),
    "kv_start": ((-1, -1), Layout(kv_start=torch.tensor([21]))),
    "crossed": ((-1, -1), Layout(kv_start=torch.tensor([12]), kv_end=torch.tensor([9]))),
    "kv_mask": ((-1, -1), Layout(kv_mask=torch.zeros(1, 21, dtype=torch.bool))),
    "segment_ids": ((-1, -1), Layout(segment_ids=torch.zeros(1, 21, dtype=torch.int64), offset=21)),
    "chunk": ((-1, -1), Layout(chunk=32, offset=32)),
    "sink behind the right bound": ((0, 0), Layout(sink_tokens=4, offset=-22)),
}


@pytest.mark.parametrize("sink", (False, True), ids=("", "sink"))
@pytest.mark.parametrize("name", SEE_NOTHING)
def test_windows_without_keys(name, sink):
    window_size, layout = SEE_NOTHING[name]
    score = Score(rel_bias=torch.randn(2, 3), sink_logits=torch.tensor([0.5, -2.0]) if sink else None)
    problem = problem_of(window_size=window_size, layout=layout, score=score)
    problem.k.fill_(torch.nan)
    problem.v.fill_(torch.nan)
    results = forward_backward(run_backend, problem)
    lse = score.sink_logits[None, :, None].expand(1, 2, 21) if sink else torch.full((1, 2, 21), -torch.inf)
    assert torch.equal(results.pop("lse"), lse)
    if sink:
        torch.testing.assert_close(results.pop("dsink_logits"), problem.dlse.sum((0, 2)))
    for name, x in results.items():
        assert (x == 0).all(), name


def _int64(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


_SEGMENTS = torch.arange(21)[None] // 8
HUGE = {
    "window": {"window_size": (MAX, MAX)},
    "window_left": {"window_size": (MAX, 0)},
    "window_right": {"window_size": (0, MAX)},
    "offset": {"window_size": (MAX, 5), "layout": Layout(offset=MAX)},
    "offset_all_but_a_few": {"window_size": (MAX - 30, 5), "layout": Layout(offset=MAX - 20)},
    "offset_negative": {"window_size": (5, MAX), "layout": Layout(offset=-MAX)},
    "offset_negative_and_a_few": {"window_size": (5, MAX - 7), "layout": Layout(offset=-MAX)},
    "offset_tensor": {"window_size": (-1, 0), "layout": Layout(offset=_int64(2**40))},
    "offset_tensor_negative": {"window_size": (0, -1), "layout": Layout(offset=_int64(-(2**40)))},
    "offset_int32": {"window_size": (3, -1), "layout": Layout(offset=_int64(-(2**31)).int())},
    "offset_low_bits": {"window_size": (3, 3), "layout": Layout(offset=_int64(2**32))},
    "kv_range": {"layout": Layout(kv_start=_int64(-(2**31)).int(), kv_end=_int64(MAX).int())},
    "kv_range_int64": {"layout": Layout(kv_start=_int64(-(2**40)), kv_end=_int64(2**40))},
    "kv_range_low_bits": {"layout": Layout(kv_start=_int64(-(2**32) + 9), kv_end=_int64(2**32 + 3))},
    "sink_tokens": {"window_size": (2, 0), "layout": Layout(sink_tokens=MAX)},
    "sink_tokens_from_the_end": {
        "window_size": (2, 0),
        "layout": Layout(sink_tokens=MAX, kv_start=_int64(-MAX + 4).int()),
    },
    "chunk": {"layout": Layout(chunk=MAX, chunk_origin=MAX)},
    "chunk_negative": {"layout": Layout(chunk=MAX, chunk_origin=-MAX + 5)},
    "chunk_origin": {"layout": Layout(chunk=5, chunk_origin=-MAX)},
    "chunk_origin_int64": {"layout": Layout(chunk=5, chunk_origin=_int64(2**40))},
    "chunk_origin_past_2_60": {"layout": Layout(chunk=5, chunk_origin=_int64(-(2**62) - 1))},
    "bias_center": {"score": Score(rel_bias=torch.arange(10.0).view(2, 5), bias_center=MAX)},
    "bias_center_negative": {"score": Score(rel_bias=torch.arange(10.0).view(2, 5), bias_center=-MAX)},
    "bias_center_and_offset": {
        "layout": Layout(offset=MAX),
        "score": Score(rel_bias=torch.arange(80.0).view(2, 40), bias_center=MAX),
    },
    "bias_offset_int64": {
        "layout": Layout(offset=_int64(2**40)),
        "score": Score(rel_bias=torch.arange(10.0).view(2, 5), bias_center=2),
    },
    "dropout": {"layout": Layout(offset=_int64(2**40 + 3)), "dropout_p": 0.5},
    "dropout_negative": {"layout": Layout(offset=-MAX), "dropout_p": 0.5},
    "segment_ids": {"layout": Layout(segment_ids=_SEGMENTS * 2**32)},
    "segment_ids_ends": {"layout": Layout(segment_ids=_SEGMENTS * MAX + torch.iinfo(torch.int64).min)},
    "max_seqlen": {"layout": Layout(*(None,) * 4, *(_int64(0, 5, 21),) * 2, MAX, MAX)},
}


@pytest.mark.parametrize("name", HUGE)
def test_values_near_the_limits_of_their_types(name):
    compare_problem(problem_of(**HUGE[name]))


@pytest.mark.skipif(sys.platform != "linux", reason="reserves memory as Linux does")
@pytest.mark.parametrize("dim", (0, 1, 2), ids=("batch", "seqlen", "heads"))
def test_strides_past_2_31(dim):
    """In reserved memory of which only a few pages are ever used."""
    problem = problem_of(batch=2, seqlen_q=3, seqlen_k=3, num_kv_heads=2, dtype=torch.float16)
    stride = 2**31 + 64
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)
    size = 2 * (2 * stride + 2**20)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    room = torch.frombuffer(memory, dtype=torch.float16)
    places = iter(range(0, 2**20, 4096))

    def far_apart(x):
        if x.dtype != torch.float16:
            return x
        strides = [stride if i == dim else s for i, s in enumerate(x.stride())]
        return room.as_strided(x.shape, strides, next(places)).copy_(x)

    got = forward_backward(run_backend, with_tensors(problem, far_apart))
    assert_same_bits(got, forward_backward(run_backend, problem))


@requires_dtype(torch.bfloat16)
def test_keys_past_2_31_elements():
    """All heads are one head, expanded; the queries see the last few keys."""
    num_heads, seqlen_k, window = 512, 2**16, 20
    q = torch.randn(1, 5, num_heads, 64).bfloat16()
    k, v = (torch.randn(1, seqlen_k, 1, 64).bfloat16() for _ in range(2))
    options = problem_of(head_dim=64, window_size=(window, 0)).options
    wide_k, wide_v = (x.expand(-1, -1, num_heads, -1) for x in (k, v))
    assert wide_k.numel() >= 2**31
    out, lse = run_backend(q, wide_k, wide_v, options)
    near = slice(seqlen_k - window - 5, None)
    want_out, want_lse = run_eager(q, k[:, near], v[:, near], options)
    torch.testing.assert_close(out, want_out, rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(lse, want_lse)


@not_interpreted
def test_scores_past_2_31():
    """70,000 queries and keys: the middle and both ends as sequences of their own."""
    seqlen, left, right = 70_000, 16, 3
    problem = problem_of(seqlen_q=seqlen, seqlen_k=seqlen, num_heads=1, window_size=(left, right))
    got = forward_backward(run_backend, problem)
    for begin in (0, 46_300, seqlen - 100):
        end, around = begin + 100, slice(max(begin - 40, 0), begin + 140)
        inner = slice(begin - around.start, end - around.start)
        local = with_tensors(problem, lambda x, rows=around: x[:, :, rows] if x.dim() == 3 else x[:, rows])
        want = forward_backward(run_eager, local)
        for name, x in want.items():
            part = (slice(None), slice(None)) if name == "lse" else (slice(None),)
            torch.testing.assert_close(
                got[name][*part, begin:end], x[*part, inner], msg=lambda m, n=name: f"{n} {m}"
            )


@pytest.mark.parametrize("seqlen_q", (1, 70))
def test_scores_whose_rounding_is_far_from_1(seqlen_q):
    """Near 2^36 a score is rounded to thousands: each query still sees its largest one, and no other."""
    problem = problem_of(seqlen_q=seqlen_q, seqlen_k=200)
    q, k = problem.q * 2.0**18, problem.k * 2.0**18
    out, lse = run_backend(q, k, problem.v, problem.options)
    want_out, want_lse = run_eager(q, k, problem.v, problem.options)
    torch.testing.assert_close(out, want_out)
    torch.testing.assert_close(lse, want_lse)


def test_equal_large_scores_share_the_weight():
    """Integers, so that a query has several largest scores, in tiles with a mask and without."""
    problem = problem_of(seqlen_q=100, seqlen_k=200)
    q, k = (torch.randint(-1, 2, x.shape).float() for x in (problem.q, problem.k))
    options = problem.options._replace(softmax_scale=3e4)
    out, _ = run_backend(q, k, problem.v, options)
    want, _ = run_eager(q, k, problem.v, options)
    torch.testing.assert_close(out, want)


@pytest.mark.skipif(TESTED in ("triton", "cuda"), reason="the GPU kernels multiply scores by log2(e) first")
@pytest.mark.parametrize("seqlen_q", (1, 70))
def test_the_largest_scores_after_small_ones(seqlen_q):
    """A score whose product with log2(e) exceeds float's range is no NaN: its key has all the weight."""
    problem = problem_of(seqlen_q=seqlen_q, seqlen_k=200, window_size=(-1, -1))
    q, k = torch.zeros_like(problem.q), problem.k.clone()
    q[..., 0] = 1
    k[:, 150, :, 0] = 3e38
    options = problem.options._replace(softmax_scale=1.0)
    out, lse = run_backend(q, k, problem.v, options)
    want_out, want_lse = run_eager(q, k, problem.v, options)
    torch.testing.assert_close(out, want_out)
    torch.testing.assert_close(lse, want_lse)
