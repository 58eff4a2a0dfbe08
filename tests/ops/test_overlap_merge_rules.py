"""overlap_merge and overlap_split: autograd, autocast, invalid plans and bad input."""

import pytest
import torch
from helpers.backends import BACKENDS, by_backend, supported

import lckernels
from lckernels import Plan, plan_chunks, reference

ops = torch.ops.lckernels

pytestmark = [pytest.mark.isa_all, pytest.mark.triton_all]


def test_forward_mode_raises():
    plan = plan_chunks([50], 16, 6)
    chunks = torch.randn(plan.num_chunks, 16, 5)
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(lambda x: lckernels.overlap_merge(x, plan), (chunks,), (chunks,))


@by_backend
@pytest.mark.parametrize("dtype", supported(torch.float32, torch.bfloat16), ids=str)
def test_autocast_keeps_the_dtype(dtype, backend):
    plan = plan_chunks([50], 16, 6)
    chunks = torch.randn(plan.num_chunks, 16, 5).to(dtype).requires_grad_()
    table = torch.rand(plan.num_chunks, 16, requires_grad=True)

    def run():
        merged = lckernels.overlap_merge(chunks, plan, table, backend=backend)
        again = lckernels.overlap_split(merged, plan, backend=backend)
        return merged, again, *torch.autograd.grad(again.float().sum(), (chunks, table))

    want = run()
    with torch.autocast("cpu", torch.bfloat16):
        got = run()
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("op", ["overlap_merge", "overlap_split"])
def test_second_order_raises(op):
    plan = plan_chunks([50], 16, 6)
    shape = (plan.num_chunks, 16, 5) if op == "overlap_merge" else (plan.total_len, 5)
    x = torch.randn(shape, requires_grad=True)
    out = getattr(lckernels, op)(x, plan)
    with pytest.raises(RuntimeError, match=f"lckernels.{op}: got create_graph=True"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "eager"])
def test_a_damaged_plan_stays_inside_the_tensors(backend):
    """The op called directly with nonsense segments neither crashes nor writes outside its output."""
    plan = plan_chunks([200], 32, 8)
    chunks = torch.randn(plan.num_chunks, 32, 8)
    for _ in range(50):
        segments = plan.segments.clone()
        wild = torch.randint(-(2**31), 2**31 - 1, segments.shape, dtype=torch.int32)
        near = segments + torch.randint(-40, 40, segments.shape, dtype=torch.int32)
        choice = torch.rand(segments.shape)
        segments = torch.where(choice < 0.1, wild, torch.where(choice < 0.5, near, segments))
        tiles = plan.tile_segments + torch.randint(-3, 300, plan.tile_segments.shape, dtype=torch.int32)
        ops.overlap_merge(chunks, None, segments, tiles, 200, "triangular", backend)
        ops.overlap_split(torch.randn(200, 8), segments, tiles, plan.num_chunks, 32, backend)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("cpu", "eager")])
def test_weights_of_sum_zero_without_a_sync(backend):
    """0 there and in all gradients; on the CPU the backends raise."""
    plan = plan_chunks([50], 16, 6)
    chunks = torch.randn(plan.num_chunks, 16, 5, requires_grad=True)
    table = torch.rand(plan.num_chunks, 16) + 0.5
    table[0, 3] = table[0, 12] = table[1, 2] = 0
    table.requires_grad_()
    merged = lckernels.overlap_merge(chunks, plan, table, backend=backend)
    torch.testing.assert_close(merged, reference.overlap_merge(chunks, plan, table))
    dchunks, dtable = torch.autograd.grad(merged.sum(), (chunks, table))
    assert (merged[[3, 12]] == 0).all() and (dchunks[0, [3, 12]] == 0).all() and (dchunks[1, 2] == 0).all()
    assert dtable[0, 3] == dtable[0, 12] == dtable[1, 2] == 0 and torch.isfinite(dtable).all()


def test_crop_needs_keep_ranges_that_partition():
    plan = Plan.from_segments(
        [[0, 0, 0, 4, 0, 3], [1, 0, 2, 4, 2, 4]], num_chunks=2, chunk_len=4, total_len=6
    )
    with pytest.raises(
        ValueError, match=r"plan: got position 3 in no or several keep ranges; weights='crop' needs"
    ):
        lckernels.overlap_merge(torch.zeros(2, 4, 1), plan, "crop")


def test_eager_rejects_bad_explicit_weights_too():
    plan = plan_chunks([50], 16, 6)
    with pytest.raises(
        ValueError, match="weights: got values negative, not finite or of sum zero at position 0"
    ):
        lckernels.overlap_merge(
            torch.zeros(plan.num_chunks, 16, 1), plan, torch.zeros(5, 16), backend="eager"
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_have_no_feature_dimension(backend):
    plan = plan_chunks([50], 16, 6)
    samples = torch.randn(50, requires_grad=True)
    chunks = lckernels.overlap_split(samples, plan, backend=backend)
    assert torch.equal(chunks, lckernels.overlap_split(samples[:, None], plan, backend=backend)[:, :, 0])
    merged = lckernels.overlap_merge(chunks * 2, plan, "hann", backend=backend)
    assert merged.shape == (50,) and merged.is_contiguous() and chunks.is_contiguous()
    torch.testing.assert_close(merged, 2 * samples)
    torch.testing.assert_close(torch.autograd.grad(merged.sum(), samples)[0], torch.full((50,), 2.0))


def test_a_window_of_torch_that_begins_with_zero():
    plan = plan_chunks([50], 16, 6)
    window = torch.hann_window(16).expand(plan.num_chunks, -1)
    message = (
        r"of sum zero at position 0; .* \(torch.hann_window begins with 0; weights='hann' has no zero\)$"
    )
    with pytest.raises(ValueError, match=message):
        lckernels.overlap_merge(torch.zeros(plan.num_chunks, 16, 1), plan, window, backend="eager")
