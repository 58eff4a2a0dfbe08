"""The ops inside programs that torch.compile compiles: traced without a graph break, and by inductor."""

import pytest
import torch
from helpers.attention_states import random_states
from helpers.backends import by_backend
from helpers.cases import CASES, SMALL_CASES
from helpers.compare import assert_as_good_as

import lckernels
from lckernels import ExtraTokens, plan_chunks


@pytest.mark.isa_all
@pytest.mark.triton_all
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
def test_windowed_attention(case):
    layout = case.layout(case)
    score = case.score(case, torch.float32)

    def run(q, k, v):
        out, lse = lckernels.windowed_attention(
            q, k, v, window_size=case.window_size, layout=layout, score=score, return_lse=True
        )
        return out, lse

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for requires_grad in (False, True):
        q, k, v = case.tensors(torch.float32, requires_grad)
        got, want = compiled(q, k, v), run(q, k, v)
        torch.testing.assert_close(got, want)
        if requires_grad:
            for x, y in zip(
                *(torch.autograd.grad(r[0].square().sum(), (q, k, v)) for r in (got, want)), strict=True
            ):
                torch.testing.assert_close(x, y)


@pytest.mark.isa_all
@pytest.mark.triton_all
@pytest.mark.usefixtures("one_thread")
def test_windowed_attention_with_dropout_draws_a_seed():
    q, k, v = CASES[0].tensors(torch.float32)
    run = torch.compile(
        lambda: lckernels.windowed_attention(q, k, v, dropout_p=0.5), fullgraph=True, backend="aot_eager"
    )
    assert not torch.equal(run(), run())


@pytest.mark.isa_all
@pytest.mark.triton_all
@by_backend
def test_chunked_attention(backend):
    torch._dynamo.reset()

    def program(q, k, v, extra, table, plan):
        out = lckernels.chunked_attention(q, k, v, plan, backend=backend)
        more, extra_out = lckernels.chunked_attention(
            q, k, v, plan, table, extra=ExtraTokens(*extra), softmax_scale=0.3, backend=backend
        )
        return out + more, extra_out

    compiled = torch.compile(program, fullgraph=True, dynamic=True, backend="aot_eager")
    for length, requires_grad in ((40, False), (55, True)):
        plan = plan_chunks([length], 16, 6)
        q, k, v = (torch.randn(length, n, 8, requires_grad=requires_grad) for n in (4, 2, 2))
        extra = [torch.randn(plan.num_chunks, 1, n, 8, requires_grad=requires_grad) for n in (4, 2, 2)]
        table = (torch.rand(plan.num_chunks, 16) + 0.5).requires_grad_(requires_grad)
        args = (q, k, v, extra, table, plan)
        got, want = compiled(*args), program(*args)
        torch.testing.assert_close(got, want)
        if requires_grad:
            tensors = (q, k, v, *extra, table)
            losses = (x.square().sum() + y.sum() for x, y in (got, want))
            for x, y in zip(*(torch.autograd.grad(loss, tensors) for loss in losses), strict=True):
                torch.testing.assert_close(x, y)


@pytest.mark.isa_all
@pytest.mark.triton_all
@by_backend
def test_merge_attention_states(backend):
    def merge(outs, lses):
        return lckernels.merge_attention_states(outs, lses, backend=backend)

    torch._dynamo.reset()
    compiled = torch.compile(merge, fullgraph=True, dynamic=True, backend="aot_eager")
    for requires_grad in (False, True):
        outs, lses = random_states(torch.float32, requires_grad=requires_grad)
        got, want = compiled(outs, lses), merge(outs, lses)
        torch.testing.assert_close(got, want)
        if requires_grad:
            for x, y in zip(*(torch.autograd.grad(r[0].sum(), outs) for r in (got, want)), strict=True):
                torch.testing.assert_close(x, y)


@pytest.mark.isa_all
@pytest.mark.triton_all
@by_backend
def test_overlap_merge(backend):
    torch._dynamo.reset()

    def run(chunks, plan, table):
        merged = lckernels.overlap_merge(chunks, plan, backend=backend)
        merged = merged + lckernels.overlap_merge(chunks, plan, table, backend=backend)
        return lckernels.overlap_split(merged, plan, backend=backend)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for length, requires_grad in ((40, False), (55, True)):
        plan = plan_chunks([length], 16, 6)
        chunks = torch.randn(plan.num_chunks, 16, 3, requires_grad=requires_grad)
        table = torch.rand(plan.num_chunks, 16, requires_grad=requires_grad)
        got, want = compiled(chunks, plan, table), run(chunks, plan, table)
        torch.testing.assert_close(got, want)
        if requires_grad:
            grads = (torch.autograd.grad(x.square().sum(), (chunks, table)) for x in (got, want))
            for x, y in zip(*grads, strict=True):
                torch.testing.assert_close(x, y)


def test_inductor():
    plan = lckernels.plan_chunks([100], 32, 8)

    def program(chunks, table):
        merged = lckernels.overlap_merge(chunks, plan).tanh()
        again = lckernels.overlap_merge(lckernels.overlap_split(merged, plan) * 2, plan, table)
        q = again.view(1, 100, 2, 8) + 1
        halves = [
            lckernels.windowed_attention(q, k, k, window_size=(9, 0), return_lse=True)
            for k in (q[:, :50], q[:, 50:])
        ]
        out, lse = lckernels.merge_attention_states(*zip(*halves, strict=True))
        own = lckernels.chunked_attention(q[0], q[0], q[0] * 2, plan, table)
        return own.sum() + out.square().sum() + torch.where(torch.isfinite(lse), lse, 0).sum()

    inputs = (torch.randn(plan.num_chunks, 32, 16), torch.rand(plan.num_chunks, 32) + 0.5)

    def loss_and_gradients(run, dtype):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        loss = run(*leaves)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    torch._dynamo.reset()
    got = loss_and_gradients(torch.compile(program, fullgraph=True), torch.float32)
    honest, truth = loss_and_gradients(program, torch.float32), loss_and_gradients(program, torch.float64)
    for actual, expected, plain in zip(got, truth, honest, strict=True):
        assert_as_good_as(actual, expected, plain)
