"""The ops inside a program that the default compiler of torch.compile turns into code."""

import torch
from helpers.compare import assert_as_good_as

import lckernels


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
