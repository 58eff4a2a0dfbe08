"""overlap_merge and overlap_split: the reference by hand, each backend against the reference."""

import math
from functools import partial

import pytest
import torch
from helpers.backends import BACKENDS, DEVICE, TESTED, by_backend, scaled_count
from helpers.chunked_cases import hand_made_plan
from helpers.compare import assert_as_good_as, interpreter_rounding
from helpers.opcheck import opcheck

import lckernels
from lckernels import Plan, plan_chunks, reference
from lckernels.dtypes import compute_dtype

pytestmark = [pytest.mark.isa_all, pytest.mark.triton_all]

ops = torch.ops.lckernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
WEIGHTS = ("uniform", "triangular", "hann", "crop", "explicit")


PLANS = {
    "one_token": lambda: plan_chunks([1], 8, 2),
    "one_chunk": lambda: plan_chunks([7], 8, 2),
    "half": lambda: plan_chunks([301], 64, 32),
    "quarter": lambda: plan_chunks([200], 64, 16),
    "no_overlap": lambda: plan_chunks([100], 10, 0),
    "deep": lambda: plan_chunks([90], 40, 37),
    "ragged_special": lambda: plan_chunks([1, 63, 64, 65, 130, 7], 32, 10, num_leading=2, num_trailing=1),
    "sentences": lambda: plan_chunks([150], 40, 8, rule="sentence", boundaries=[[9, 40, 55, 80, 81, 130]]),
    "max_context": lambda: plan_chunks([150], 40, 13, rule="max_context"),
    "by_hand": hand_made_plan,
}
by_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def _is_quick_in_the_interpreter(plan, dtype, weights="uniform"):
    return plan is PLANS["half"] and dtype != torch.float64 and weights != "hann"


on_triton_in_ci = pytest.mark.cases(triton=_is_quick_in_the_interpreter)


def weights_of(name, plan, dtype=torch.float32):
    if name != "explicit":
        return name
    return torch.rand(plan.num_chunks, plan.chunk_len).to(compute_dtype(dtype)) + 0.5


def random(shape, dtype):
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def honest_merge(chunks, plan, weights):
    """Plain torch in the chunks' dtype: weighted sum, then divide."""
    rows = plan.segments.tolist()
    total = chunks.new_zeros(plan.total_len, chunks.shape[2])
    weight_sum = chunks.new_zeros(plan.total_len, 1)
    for row in rows:
        chunk, col, start, length = row[:4]
        a = reference.segment_weights(row, weights, torch.float64)[:, None].to(chunks.dtype)
        total[start : start + length] += a * chunks[chunk, col : col + length]
        weight_sum[start : start + length] += a
    return total / weight_sum


def test_reference_by_hand():
    plan = Plan.from_segments([[0, 0, 0, 4], [1, 0, 2, 4]], num_chunks=2, chunk_len=4, total_len=6)
    chunks = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40]])[:, :, None]
    # The first segment starts the document (m = 4, 3, 2, 1), the second ends it (m = 1, 2, 3, 4).
    merged = reference.overlap_merge(chunks, plan, "triangular")[:, 0]
    torch.testing.assert_close(merged, torch.tensor([1, 2, (6 + 10) / 3, (4 + 40) / 3, 30, 40]))
    hann = [math.sin(math.pi * m / 10) ** 2 for m in (4, 3, 2, 1)]
    third = (3 * hann[2] + 10 * hann[3]) / (hann[2] + hann[3])
    assert math.isclose(reference.overlap_merge(chunks, plan, "hann")[2, 0], third, rel_tol=1e-6)
    torch.testing.assert_close(
        reference.overlap_merge(chunks, plan, "uniform")[:, 0], torch.tensor([1, 2, 6.5, 12, 30, 40])
    )


@on_triton_in_ci
@by_plan
@by_dtype
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dim", (1, 5, 16, 97))
def test_merge(plan, dtype, weights, dim):
    plan = plan()
    weights = weights_of(weights, plan, dtype)
    chunks = random((plan.num_chunks, plan.chunk_len, dim), dtype)
    truth = reference.overlap_merge(chunks.double(), plan, weights)
    honest = honest_merge(chunks, plan, weights)
    for backend in BACKENDS:
        merged = lckernels.overlap_merge(chunks, plan, weights, backend=backend)
        assert merged.dtype == dtype and merged.is_contiguous(), backend
        assert_as_good_as(merged, truth, honest, backend, interpreter_rounding(backend, truth, dtype))


@on_triton_in_ci
@by_plan
@by_dtype
@by_backend
def test_split_and_its_backward(plan, dtype, backend):
    plan = plan()
    sequence = random((plan.total_len, 19), dtype).requires_grad_()
    chunks = lckernels.overlap_split(sequence, plan, backend=backend)
    assert torch.equal(chunks, reference.overlap_split(sequence.detach(), plan))
    dchunks = random(chunks.shape, dtype)
    (dsequence,) = torch.autograd.grad(chunks, sequence, dchunks)
    wide = sequence.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(reference.overlap_split(wide, plan), wide, dchunks.double())
    low = sequence.detach().clone().requires_grad_()
    (honest,) = torch.autograd.grad(reference.overlap_split(low, plan), low, dchunks)
    rounding = interpreter_rounding(backend, truth, dtype)
    assert_as_good_as(dsequence, truth, honest, rounding=rounding)


@on_triton_in_ci
@by_plan
@by_dtype
@pytest.mark.parametrize("weights", WEIGHTS)
def test_merge_backward(plan, dtype, weights):
    plan = plan()
    weights = weights_of(weights, plan, dtype)
    explicit = isinstance(weights, torch.Tensor)
    chunks = random((plan.num_chunks, plan.chunk_len, 21), dtype)
    dout = random((plan.total_len, 21), dtype)

    def gradients(merge, x, w, dout):
        inputs = [x.requires_grad_(), *([w.requires_grad_()] if explicit else [])]
        return torch.autograd.grad(merge(x, plan, w), inputs, dout)

    def own(w):
        return w.detach().clone() if explicit else w

    wide = weights.detach().double() if explicit else weights
    truth = gradients(reference.overlap_merge, chunks.double(), wide, dout.double())
    honest = gradients(honest_merge, chunks.clone(), own(weights), dout)
    for backend in BACKENDS:
        op = partial(lckernels.overlap_merge, backend=backend)
        got = gradients(op, chunks.clone(), own(weights), dout)
        for name, g, t, h in zip(("dchunks", "dweights"), got, truth, honest, strict=False):
            rounding = interpreter_rounding(backend, t, g.dtype)
            assert_as_good_as(g, t, h, f"{backend}: {name}", rounding)


@by_backend
@pytest.mark.parametrize("weights", ("triangular", "explicit"))
def test_gradcheck(backend, weights):
    plan = hand_made_plan()
    weights = weights_of(weights, plan, torch.float64)
    inputs = [torch.randn(5, 10, 3, dtype=torch.float64, requires_grad=True)]
    if isinstance(weights, torch.Tensor):
        inputs.append(weights.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, w=weights: lckernels.overlap_merge(x, plan, w, backend=backend), inputs, fast_mode=True
    )
    sequence = torch.randn(15, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: lckernels.overlap_split(x, plan, backend=backend), sequence, fast_mode=True
    )


@pytest.mark.opcheck
@by_backend
@pytest.mark.parametrize("requires_grad", (False, True))
def test_opcheck(backend, requires_grad, every_trace):
    plan = hand_made_plan()
    where = (plan.segments, plan.tile_segments)
    chunks = torch.randn(5, 10, 3, requires_grad=requires_grad)
    table = torch.rand(5, 10, requires_grad=requires_grad)
    dout = torch.randn(15, 3)
    for weights, mode in ((None, "hann"), (table, "explicit"), (table.t().contiguous().t(), "explicit")):
        opcheck(ops.overlap_merge, (chunks, weights, *where, 15, mode, backend), every_trace)
        args = (
            dout,
            None if weights is None else chunks.detach(),
            None if weights is None else table.detach(),
        )
        opcheck(ops.overlap_merge_backward, (*args, *where, 5, 10, mode, backend), every_trace)
    sequence = torch.randn(15, 3, requires_grad=requires_grad)
    opcheck(ops.overlap_split, (sequence, *where, 5, 10, backend), every_trace)
    opcheck(ops.overlap_split_backward, (torch.randn(5, 10, 3), *where, 15, backend), every_trace)


@by_backend
def test_strides(backend):
    plan = plan_chunks([50], 16, 6)
    wide = torch.randn(plan.num_chunks, 20, 11)
    for chunks in (
        wide[:, 2:18, 3:8],
        torch.randn(16, plan.num_chunks, 5).transpose(0, 1),
        torch.randn(plan.num_chunks, 5, 16).transpose(1, 2),
        torch.randn(1, 1, 5).expand(plan.num_chunks, 16, 5),
    ):
        got = lckernels.overlap_merge(chunks, plan, backend=backend)
        want = reference.overlap_merge(chunks.double(), plan)
        assert_as_good_as(got, want, want.float())
    sequence = torch.randn(7, 50).t()
    assert torch.equal(
        lckernels.overlap_split(sequence, plan, backend=backend), reference.overlap_split(sequence, plan)
    )
    expanded = torch.ones(()).expand(50, 5)
    chunks = torch.randn(plan.num_chunks, 16, 5, requires_grad=True)
    lckernels.overlap_merge(chunks, plan, backend=backend).backward(expanded)
    torch.testing.assert_close(chunks.grad.sum(), torch.tensor(250.0))


@by_backend
def test_a_zero_weight_reads_nothing(backend):
    plan = plan_chunks([50], 16, 6)
    chunks = torch.randn(plan.num_chunks, 16, 5)
    table = torch.rand(plan.num_chunks, 16) + 0.1
    covered_twice = 12
    table[0, covered_twice] = 0
    chunks[0, covered_twice] = torch.nan
    merged = lckernels.overlap_merge(chunks, plan, table, backend=backend)
    assert torch.isfinite(merged).all()
    torch.testing.assert_close(merged[covered_twice], chunks[1, 2])
    cropped = torch.full_like(chunks, torch.nan)
    for row, col, start, _, keep_start, keep_end in plan.segments[:, :6].tolist():
        cropped[row, col + keep_start : col + keep_end] = start
    assert torch.isfinite(lckernels.overlap_merge(cropped, plan, "crop", backend=backend)).all()


@by_backend
def test_gradient_of_a_zero_weight(backend):
    """<dout, x - out> / sum of weights there too; 0 where the row that it does not read is not finite."""
    plan = plan_chunks([50], 16, 6)
    chunks, dout = (
        torch.randn(plan.num_chunks, 16, 5, dtype=torch.float64),
        torch.randn(50, 5, dtype=torch.float64),
    )
    table = torch.rand(plan.num_chunks, 16, dtype=torch.float64) + 0.5
    table[0, 12] = table[1, 13] = 0
    poisoned = chunks.clone()
    poisoned[0, 12] = torch.nan
    results = []
    for merge in (lambda *args: lckernels.overlap_merge(*args, backend=backend), reference.overlap_merge):
        found = []
        for value in (chunks, poisoned):
            weights = table.clone().requires_grad_()
            found.append(torch.autograd.grad(merge(value, plan, weights), weights, dout)[0])
        results.append(found)
    torch.testing.assert_close(results[0], results[1])
    out = reference.overlap_merge(chunks, plan, table)
    formula = (dout[12] * (chunks[0, 12] - out[12])).sum() / table[1, 2]
    torch.testing.assert_close(results[0][0][0, 12], formula)
    assert results[0][1][0, 12] == 0 and torch.isfinite(results[0][1]).all()


@by_backend
def test_extreme_values(backend):
    plan = plan_chunks([100], 16, 6)
    chunks = torch.randn(plan.num_chunks, 16, 40)
    chunks[2, 3:5] = torch.tensor([torch.inf, torch.nan]).repeat(20)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = chunks.to(dtype)
        got = lckernels.overlap_merge(x, plan, backend=backend)
        truth = reference.overlap_merge(x.double(), plan)
        rounding = interpreter_rounding(backend, truth, dtype)
        assert_as_good_as(got, truth, honest_merge(x, plan, "triangular"), backend, rounding)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("dim", (1, 1000))
def test_every_16_bit_value_survives(dtype, dim):
    """A sum of halves of each value with itself rounds to the value, in the vector loop and in its tail."""
    if dtype == torch.bfloat16 and TESTED == "triton" and DEVICE == "cpu":
        pytest.skip("Triton's interpreter makes bf16 of the least sizes 0")
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[~values.isnan()]
    values = torch.cat([values, values.new_zeros(-len(values) % dim)]).view(-1, dim)
    total = len(values)
    plan = Plan.from_segments(
        [[0, 0, 0, total], [1, 0, 0, total]], num_chunks=2, chunk_len=total, total_len=total
    )
    merged = lckernels.overlap_merge(values.expand(2, -1, -1), plan, "uniform")
    assert torch.equal(merged.view(torch.int16) * (merged != 0), values.view(torch.int16) * (values != 0))


@by_backend
def test_sizes_of_zero(backend):
    plan = plan_chunks([20], 16, 6)
    assert lckernels.overlap_merge(torch.empty(plan.num_chunks, 16, 0), plan, backend=backend).shape == (
        20,
        0,
    )
    assert lckernels.overlap_split(torch.empty(20, 0), plan, backend=backend).shape == (
        plan.num_chunks,
        16,
        0,
    )
    empty = Plan.from_segments([], num_chunks=0, chunk_len=8, total_len=0)
    assert lckernels.overlap_merge(torch.empty(0, 8, 3), empty, backend=backend).shape == (0, 3)
    assert lckernels.overlap_split(torch.empty(0, 3), empty, backend=backend).shape == (0, 8, 3)


@by_backend
def test_split_then_merge_is_the_identity(backend):
    plan = plan_chunks([123, 45], 32, 12, num_leading=1, num_trailing=1)
    sequence = torch.randn(168, 24)
    for weights in ("uniform", "triangular", "hann", "crop"):
        chunks = lckernels.overlap_split(sequence, plan, backend=backend)
        torch.testing.assert_close(lckernels.overlap_merge(chunks, plan, weights, backend=backend), sequence)


def test_same_bits_for_any_number_of_threads():
    plan = plan_chunks([3000], 128, 50)
    chunks = torch.randn(plan.num_chunks, 128, 64)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(lckernels.overlap_merge(chunks, plan, "hann", backend="cpu"))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_large_outputs_are_streamed_and_mapped_alike():
    """Sizes on both sides of the thresholds for streamed stores and huge pages, aligned rows and odd ones."""
    for dim, length in ((256, 5000), (257, 5000), (384, 30_000)):
        plan = plan_chunks([length], 512, 200)
        sequence = torch.randn(length, dim)
        chunks = lckernels.overlap_split(sequence, plan, backend="cpu")
        merged = lckernels.overlap_merge(chunks, plan, backend="cpu")
        torch.testing.assert_close(merged, sequence)
        warm = torch.full_like(sequence, torch.nan)
        args = (chunks, None, plan.segments, plan.tile_segments, "triangular", warm)
        torch.ops.lckernels_cpu.overlap_gather(*args)
        assert torch.equal(warm, merged)


def test_every_instruction_set():
    """Those below the best one, in every dtype, forward and backward."""
    best = torch.ops.lckernels_cpu.isa()
    plan = hand_made_plan()
    names = ("generic", "avx2", "avx512", "avx512_bf16")
    try:
        for isa in names[: names.index(best) + 1]:
            torch.ops.lckernels_cpu.set_isa(isa)
            for dtype in DTYPES:
                chunks = random((5, 10, 97), dtype).requires_grad_()
                table = weights_of("explicit", plan, dtype).requires_grad_()
                dout = random((15, 97), dtype)
                merged = lckernels.overlap_merge(chunks, plan, table, backend="cpu")
                got = (merged, *torch.autograd.grad(merged, (chunks, table), dout))
                wide = chunks.detach().double().requires_grad_(), table.detach().double().requires_grad_()
                true = reference.overlap_merge(wide[0], plan, wide[1])
                truth = (true, *torch.autograd.grad(true, wide, dout.double()))
                low = chunks.detach().clone().requires_grad_(), table.detach().clone().requires_grad_()
                plain = honest_merge(low[0], plan, low[1])
                honest = (plain, *torch.autograd.grad(plain, low, dout))
                for name, g, t, h in zip(("out", "dchunks", "dweights"), got, truth, honest, strict=True):
                    assert_as_good_as(g.detach(), t.detach(), h.detach(), f"{isa} {dtype} {name}")
    finally:
        torch.ops.lckernels_cpu.set_isa(best)


def test_one_long_segment_over_many_short_ones():
    """Each tile's range then has many segments, of which few overlap it."""
    short = scaled_count(4000)
    total = 5 * short
    rows = [[0, 0, 0, total], *([1 + i, 0, 5 * i, 5] for i in range(short))]
    plan = Plan.from_segments(rows, num_chunks=short + 1, chunk_len=total, total_len=total)
    chunks = torch.arange(short + 1.0).view(-1, 1, 1).expand(-1, total, 2)
    merged = lckernels.overlap_merge(chunks, plan, "uniform")
    expected = (torch.arange(short) + 1).repeat_interleave(5)[:, None].expand(total, 2) / 2
    torch.testing.assert_close(merged, expected)
