"""A forked child computes the same as its parent, without the parent's threads."""

import os
import signal
import time

import pytest
import torch

import lckernels

SECONDS = 60


def overlap():
    plan = lckernels.plan_chunks(4000, 256, 64)
    chunks = torch.randn(plan.num_chunks, 256, 64, requires_grad=True)
    dout, dchunks = torch.randn(4000, 64), torch.randn(chunks.shape)

    def run():
        merged = lckernels.overlap_merge(chunks, plan, backend="cpu")
        split = lckernels.overlap_split(merged, plan, backend="cpu")
        return [
            merged,
            split,
            *torch.autograd.grad(merged, chunks, dout, retain_graph=True),
            *torch.autograd.grad(split, merged, dchunks),
        ]

    return run


def states():
    outs = [torch.randn(2, 700, 4, 64, requires_grad=True) for _ in range(2)]
    lses = [torch.randn(2, 4, 700, requires_grad=True) for _ in range(2)]
    grads = torch.randn(outs[0].shape), torch.randn(lses[0].shape)

    def run():
        merged = lckernels.merge_attention_states(outs, lses, backend="cpu")
        return [*merged, *torch.autograd.grad(merged, outs + lses, grads)]

    return run


def attention():
    q, k, v = (torch.randn(2, 700, heads, 64, requires_grad=True) for heads in (4, 2, 2))
    score = lckernels.Score(rel_bias=torch.randn(4, 9, requires_grad=True), bias_center=4)
    dout = torch.randn(q.shape)

    def run():
        out = lckernels.windowed_attention(q, k, v, window_size=(90, 10), score=score, backend="cpu")
        return [out, *torch.autograd.grad(out, (q, k, v, score.rel_bias), dout)]

    return run


def child_status(run, want):
    """Exit status of a forked child that compares run() with what its parent got; None if it hangs."""
    pid = os.fork()
    if pid == 0:
        same = False
        try:
            # Torch's own loops may not use threads here: they fill fresh memory when deterministic.
            torch.use_deterministic_algorithms(False)
            got = run()
            torch.set_num_threads(1)
            same = all(torch.equal(x, y) for x, y in zip(got, want, strict=True))
        finally:
            os._exit(0 if same else 1)
    stop = time.monotonic() + SECONDS
    while time.monotonic() < stop:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork() is POSIX")
@pytest.mark.parametrize("make_run", (overlap, states, attention))
def test_fork(make_run):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = make_run()
        assert child_status(run, run()) == 0
    finally:
        torch.set_num_threads(before)
