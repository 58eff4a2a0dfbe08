"""merge_attention_states: exact over disjoint key sets, differentiable, also where a state sees no key."""

import pytest
import torch
from helpers.attention_states import random_states
from helpers.backends import by_backend, on_each_isa
from helpers.compare import assert_as_good_as, interpreter_rounding
from helpers.opcheck import opcheck

import lckernels
from lckernels import Score, reference
from lckernels.backends import registry

pytestmark = [pytest.mark.isa_all, pytest.mark.triton_all]

ops = torch.ops.lckernels

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
HEAD_DIMS = (1, 3, 8, 40, 64, 257)


def wide(states):
    return [x.detach().double() for x in states]


def check_forward(outs, lses, backend):
    out, lse = lckernels.merge_attention_states(outs, lses, backend=backend)
    truth = reference.merge_attention_states(wide(outs), wide(lses))
    assert out.dtype == outs[0].dtype and out.is_contiguous() and lse.is_contiguous()
    rounding = interpreter_rounding(backend, truth[0], out.dtype)
    assert_as_good_as(out, truth[0], truth[0].to(out.dtype), "out", rounding)
    assert_as_good_as(lse, truth[1], truth[1].to(lse.dtype), "lse")


def honest_gradients(dout, dlse, outs, lses, out, lse):
    """The formulas in plain torch, from an out that was rounded to its dtype."""
    dtype = lse.dtype
    for out_i, lse_i in zip(outs, lses, strict=True):
        weight = torch.where(lse == -torch.inf, 0, torch.exp(lse_i - lse))
        rows = weight.transpose(1, 2)[..., None]
        dots = (dout.to(dtype) * (out_i.to(dtype) - out.to(dtype))).sum(-1).transpose(1, 2)
        yield (rows * dout).to(out_i.dtype), weight * (dots + dlse)


def check_backward(outs, lses, backend):
    states = [x.detach().requires_grad_() for x in (*outs, *lses)]
    num = len(outs)
    out, lse = lckernels.merge_attention_states(states[:num], states[num:], backend=backend)
    dout, dlse = torch.randn_like(out), torch.randn_like(lse)
    dlse[lse == -torch.inf] = 0
    grads = torch.autograd.grad((out, lse), states, (dout, dlse))
    wide_states = [x.requires_grad_() for x in wide(states)]
    merged = reference.merge_attention_states(wide_states[:num], wide_states[num:])
    seen = torch.isfinite(merged[1])
    loss = (merged[0] * dout).sum() + (merged[1] * dlse)[seen].sum()
    truth = torch.autograd.grad(loss, wide_states)
    honest = list(zip(*honest_gradients(dout, dlse, outs, lses, out.detach(), lse.detach()), strict=True))
    for i, (got, want, plain) in enumerate(zip(grads, truth, [*honest[0], *honest[1]], strict=True)):
        rounding = interpreter_rounding(backend, want, got.dtype)
        assert_as_good_as(got, want, plain, f"gradient {i} of {2 * num}", rounding)


@pytest.mark.triton
@by_backend
def test_is_attention_over_the_union(backend):
    q, k, v = (torch.randn(2, 7, 2, 4, dtype=torch.float64) for _ in range(3))
    score = Score(sink_logits=torch.randn(2, dtype=torch.float64))
    whole = lckernels.windowed_attention(q, k, v, score=score, return_lse=True, backend="eager")
    states = [
        lckernels.windowed_attention(
            q,
            k[:, part],
            v[:, part],
            score=score if i == 0 else Score(),
            return_lse=True,
            backend="eager",
        )
        for i, part in enumerate((slice(0, 3), slice(3, 4), slice(4, 7)))
    ]
    merged = lckernels.merge_attention_states(*zip(*states, strict=True), backend=backend)
    torch.testing.assert_close(merged, whole)


@pytest.mark.cases(triton=lambda head_dim: head_dim < 257)
@on_each_isa
@by_backend
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_backward(dtype, head_dim, backend):
    for num_states in (1, 2, 3, 7):
        states = random_states(dtype, num_states, (2, 17, 3, head_dim))
        check_forward(*states, backend)
        check_backward(*states, backend)


@by_backend
def test_many_states_of_very_different_size(backend):
    outs, lses = random_states(torch.float32, 300, (1, 33, 2, 24))
    lses = [lse * 40 for lse in lses]
    check_forward(outs, lses, backend)
    check_backward(outs, lses, backend)


@pytest.mark.triton
@by_backend
@pytest.mark.parametrize("shape", ((0, 3, 2, 8), (2, 0, 2, 8), (2, 3, 0, 8), (2, 3, 2, 0)), ids=str)
def test_nothing_to_merge(shape, backend):
    states = random_states(torch.float32, 2, shape)
    check_forward(*states, backend)
    check_backward(*states, backend)


@pytest.mark.triton
@by_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(dtype, backend):
    outs, lses = random_states(dtype, 4, (2, 19, 3, 40))
    views = [
        outs[0].transpose(1, 2).contiguous().transpose(1, 2),
        outs[1].repeat(1, 2, 1, 2)[:, 19:, :, 40:],
        outs[2][:1, :, :1].expand(2, 19, 3, 40),
        outs[3].mT.contiguous().mT,
    ]
    lse_views = [
        lses[0].transpose(1, 2).contiguous().transpose(1, 2),
        lses[1].repeat(1, 1, 2)[..., ::2],
        lses[2][..., :1].expand(2, 3, 19),
        lses[3].permute(2, 0, 1).contiguous().permute(1, 2, 0),
    ]
    for count in (1, 4):
        check_forward(views[:count], lse_views[:count], backend)
        check_backward(views[:count], lse_views[:count], backend)


@pytest.mark.triton
@by_backend
def test_gradients_of_any_strides(backend):
    outs, lses = random_states(torch.float32, 2)
    out, lse = lckernels.merge_attention_states(outs, lses)
    dense = torch.randn_like(out), torch.randn_like(lse)
    views = dense[0].mT.contiguous().mT, dense[1].mT.contiguous().mT
    got, want = (
        ops.merge_attention_states_backward(*grads, outs, lses, out.mT.contiguous().mT, lse, backend)
        for grads in (views, dense)
    )
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    got, want = (
        ops.merge_attention_states_backward(dout, None, outs, lses, out, lse, backend)
        for dout in (torch.ones(()).expand(out.shape), torch.ones(out.shape))
    )
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.triton
@by_backend
@pytest.mark.parametrize("which", (0, 1))
def test_gradient_of_one_result(which, backend):
    outs, lses = random_states(torch.float64, requires_grad=True)

    def run(merge, **options):
        result = merge(outs, lses, **options)[which]
        loss = result[torch.isfinite(result)].cos().sum()
        return torch.autograd.grad(loss, [*outs, *lses], materialize_grads=True)

    got = run(lckernels.merge_attention_states, backend=backend)
    torch.testing.assert_close(got, run(reference.merge_attention_states))


@pytest.mark.triton
@by_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_shows(dtype, backend):
    """Also a NaN whose bits are all ones, which a wrong rounding to 16 bits turns into zero."""
    outs, lses = random_states(dtype, shape=(2, 37, 3, 40))
    outs[2][1, 3], lses[2][1, :, 5] = torch.nan, torch.nan
    bits = torch.int64 if dtype == torch.float64 else torch.int32
    lses[0].view(bits)[1, 2, 9] = torch.iinfo(bits).max
    lses[1][0, 1, 11] = torch.inf
    check_forward(outs, lses, backend)
    out, lse = lckernels.merge_attention_states(outs, lses, backend=backend)
    assert out[1, 3].isnan().all() and out[1, 9, 2].isnan().all() and out[0, 11, 1].isnan().all()
    assert out.isnan().all(-1).sum() == 3 + 3 + 1 + 1 and lse.isnan().sum() == 3 + 1 + 1
    bad = out.isnan().all(-1)
    douts, dlses = ops.merge_attention_states_backward(out, None, outs, lses, out, lse, backend)
    for dout, dlse in zip(douts, dlses, strict=True):
        assert torch.equal(dout.isnan(), bad[..., None].expand(out.shape)) and torch.equal(
            dlse.isnan(), bad.mT
        )


@pytest.mark.triton
@by_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_without_weight_is_not_read(dtype, backend):
    outs, lses = random_states(dtype)
    lses[1][:, :, 4:9] = -torch.inf
    clean = [x.clone() for x in outs]
    clean[1][:, 4:9], clean[2][:, 20:25] = 0, 0
    outs[1][:, 4:9], outs[2][:, 20:25] = torch.nan, torch.inf
    lses[2][:, :, 20:25] = -1e30
    out, lse = lckernels.merge_attention_states(outs, lses, backend=backend)
    want = lckernels.merge_attention_states(clean, lses, backend=backend)
    torch.testing.assert_close((out, lse), want, rtol=0, atol=0)
    dout, dlse = torch.randn_like(out), torch.randn_like(lse)
    got, want = (
        ops.merge_attention_states_backward(dout, dlse, states, lses, out, lse, backend)
        for states in (outs, clean)
    )
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert (got[0][1][:, 4:9] == 0).all() and (got[1][2][:, :, 20:25] == 0).all()


@pytest.mark.triton
@by_backend
def test_all_states_empty(backend):
    outs, lses = [torch.full((1, 2, 1, 3), torch.nan)], [torch.full((1, 1, 2), -torch.inf)]
    out, lse = lckernels.merge_attention_states(outs, lses, backend=backend)
    assert (out == 0).all() and (lse == -torch.inf).all()
    dout = torch.full_like(out, torch.nan)
    (douts,), (dlses,) = ops.merge_attention_states_backward(dout, None, outs, lses, out, lse, backend)
    assert (douts == 0).all() and (dlses == 0).all()


@by_backend
def test_gradcheck(backend):
    outs, lses = (
        [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        for shape in ((1, 3, 2, 11), (1, 2, 3))
    )
    assert torch.autograd.gradcheck(
        lambda *x: lckernels.merge_attention_states(x[:2], x[2:], backend=backend), (*outs, *lses)
    )


@by_backend
def test_second_order_raises(backend):
    outs, lses = random_states(torch.float32, requires_grad=True)
    out, lse = lckernels.merge_attention_states(outs, lses, backend=backend)
    for result in (out, lse):
        with pytest.raises(RuntimeError, match="merge_attention_states: got create_graph=True"):
            torch.autograd.grad(result.sum(), outs[0], create_graph=True, retain_graph=True)


@pytest.mark.opcheck
@pytest.mark.triton
@by_backend
@pytest.mark.parametrize("requires_grad", (False, True))
def test_opcheck(requires_grad, backend, every_trace):
    outs, lses = random_states(torch.float32, shape=(2, 5, 3, 4), requires_grad=requires_grad)
    opcheck(ops.merge_attention_states, (outs, lses, backend), every_trace)
    out, lse = (x.detach() for x in ops.merge_attention_states(outs, lses, None))
    outs, lses = [x.detach() for x in outs], [x.detach() for x in lses]
    grads = out, torch.ones_like(lse)
    opcheck(ops.merge_attention_states_backward, (*grads, outs, lses, out, lse, backend), every_trace)
    opcheck(ops.merge_attention_states_backward, (None, None, outs, lses, out, lse, backend), every_trace)


@pytest.mark.triton
def test_every_instruction_set():
    """Those below the best one, in every dtype."""
    best = torch.ops.lckernels_cpu.isa()
    try:
        for isa in registry.ISAS[: registry.ISAS.index(best) + 1]:
            torch.ops.lckernels_cpu.set_isa(isa)
            for dtype in DTYPES:
                for head_dim in HEAD_DIMS:
                    states = random_states(dtype, 3, (1, 17, 2, head_dim))
                    check_forward(*states, "cpu")
                    check_backward(*states, "cpu")
    finally:
        torch.ops.lckernels_cpu.set_isa(best)


@pytest.mark.triton
@pytest.mark.parametrize("head_dim", (64, 65))
def test_threads_and_large_results_change_nothing(head_dim):
    """Results on both sides of the sizes from which memory is streamed to or mapped in large pages."""
    before = torch.get_num_threads()
    try:
        for seqlen in (300, 6000, 33_000):
            outs, lses = random_states(torch.float32, 2, (1, seqlen, 4, head_dim))
            results = []
            for num_threads in (1, 2):
                torch.set_num_threads(num_threads)
                out, lse = lckernels.merge_attention_states(outs, lses, backend="cpu")
                douts, dlses = ops.merge_attention_states_backward(out, lse, outs, lses, out, lse, "cpu")
                results.append([out, lse, *douts, *dlses])
            torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)
            warm = torch.full_like(out, torch.nan), torch.full_like(lse, torch.nan)
            torch.ops.lckernels_cpu.merge_states(outs, lses, *warm)
            torch.testing.assert_close(warm, (out, lse), rtol=0, atol=0)
            check_forward([x[:, -300:] for x in outs], [x[..., -300:] for x in lses], "cpu")
            want = reference.merge_attention_states(outs, lses)
            torch.testing.assert_close((out, lse), want)
    finally:
        torch.set_num_threads(before)


@pytest.mark.triton
def test_the_private_ops_reject_wrong_arguments():
    outs, lses = random_states(torch.float32, 2)
    out, lse = torch.empty_like(outs[0]), torch.empty_like(lses[0])
    merge = torch.ops.lckernels_cpu.merge_states
    for bad_outs, bad_lses in (
        ([], []),
        (outs, lses[:1]),
        ([outs[0], outs[1][:, 1:]], lses),
        ([outs[0], outs[1].double()], lses),
        ([outs[0], outs[1].mT.contiguous().mT], lses),
        (outs, [lses[0], lses[1].mT]),
        (outs, [lses[0], lses[1].double()]),
    ):
        with pytest.raises(RuntimeError, match=r"outs|lses"):
            merge(bad_outs, bad_lses, out, lse)
    grads = [torch.empty_like(x) for x in outs], [torch.empty_like(x) for x in lses]
    backward = torch.ops.lckernels_cpu.merge_states_backward
    with pytest.raises(RuntimeError, match="as many as outs"):
        backward(out, lse, outs, lses, out, lse, grads[0][:1], grads[1])
    with pytest.raises(RuntimeError, match="dlse "):
        backward(out, lse.mT, outs, lses, out, lse, *grads)
