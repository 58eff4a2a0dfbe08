"""A forked child computes the same as its parent, with as many threads."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers import fresh_python

import lckernels

SECONDS = 60
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork() is POSIX")


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


def exit_status(check):
    """Exit status of a forked child: 0 if check() returns True; None if it hangs."""
    pid = os.fork()
    if pid == 0:
        passed = False
        try:
            # Torch's own loops may not use threads here: they fill fresh memory when deterministic.
            torch.use_deterministic_algorithms(False)
            passed = check()
        finally:
            os._exit(0 if passed else 1)
    stop = time.monotonic() + SECONDS
    while time.monotonic() < stop:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def same_as(compute, expected):
    """A check that compute() gives the expected tensors."""

    def check():
        got = compute()
        # torch.equal would wait for threads of the parent; numpy has none.
        arrays = ((x.detach().numpy(), y.detach().numpy()) for x, y in zip(got, expected, strict=True))
        return all((x == y).all() for x, y in arrays)

    return check


@pytest.fixture(params=(overlap, states, attention), ids=lambda make: make.__name__)
def run_and_expected(request):
    """A function whose ops have used two threads, and its results."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = request.param()
        yield run, run()
    finally:
        torch.set_num_threads(before)


def seconds_of_threads():
    """The seconds that each thread of this process has run, the longest first."""
    stats = (path.read_text().rpartition(")")[2].split() for path in Path("/proc/self/task").glob("*/stat"))
    ticks = (int(fields[11]) + int(fields[12]) for fields in stats)
    return sorted((tick / os.sysconf("SC_CLK_TCK") for tick in ticks), reverse=True)


# In a process of its own: late in a run of all tests os.fork() in another thread crashed, before any op ran.
IN_ANOTHER_THREAD = """
import torch
from concurrent.futures import ThreadPoolExecutor
from backends.test_fork import exit_status, same_as, {0}

torch.set_num_threads(2)
compute = {0}()
check = same_as(compute, compute())
with ThreadPoolExecutor(1) as pool:
    assert pool.submit(check).result(), "the thread differs from the first thread"
    assert pool.submit(exit_status, check).result() == 0
"""


def test_fork(run_and_expected):
    assert exit_status(same_as(*run_and_expected)) == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="/proc lists the threads")
def test_a_child_uses_as_many_threads(run_and_expected):
    """Two threads run for longer than two ticks of the clock, beside the one that fork() copied."""
    check = same_as(*run_and_expected)

    def two_threads_run():
        stop = time.monotonic() + SECONDS / 2
        while time.monotonic() < stop and check():
            times = seconds_of_threads()
            if len(times) > 2 and times[2] > 0.02:
                return True
        return False

    assert len(seconds_of_threads()) > 1
    assert exit_status(lambda: len(seconds_of_threads()) == 1 and two_threads_run()) == 0


def test_a_child_of_a_child(run_and_expected):
    check = same_as(*run_and_expected)
    assert exit_status(lambda: check() and exit_status(check) == 0 and check()) == 0


def test_several_threads_of_a_child(run_and_expected):
    check = same_as(*run_and_expected)

    def with_threads():
        with ThreadPoolExecutor(3) as pool:
            checks = [pool.submit(check) for _ in range(6)]
            return check() and all(x.result() for x in checks)

    assert exit_status(with_threads) == 0


@pytest.mark.parametrize("name", ["overlap", "states", "attention"])
def test_a_fork_in_another_thread(name):
    """The child's first thread is then not that of the parent's regions."""
    done = fresh_python.run(IN_ANOTHER_THREAD.format(name), Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")


def test_one_thread_in_a_child(run_and_expected):
    """torch.set_num_threads(1), as in a worker of a DataLoader, starts no thread."""
    check = same_as(*run_and_expected)

    def one_thread():
        torch.set_num_threads(1)
        before = len(seconds_of_threads())  # torch starts one
        return check() and len(seconds_of_threads()) == before

    assert exit_status(one_thread) == 0
