"""windowed_attention where kernels break: memory around the inputs, infinities and NaN, wrong bounds."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.attention_problem import Problem, problem_of, with_tensors
from helpers.backends import (
    EXACT_NAN,
    TESTED,
    by_backend,
    is_supported,
    scaled_count,
    supported,
)
from helpers.compare_attention import (
    assert_same_bits,
    forward_backward,
    run_backend,
)
from helpers.random_attention import draw_problem

import lckernels
from lckernels import Layout, Score

pytestmark = [pytest.mark.isa_all, pytest.mark.triton_all, pytest.mark.usefixtures("one_thread")]

MAX = 2**31 - 1
DTYPES = supported(torch.float32, torch.bfloat16, torch.float16, torch.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random_problems(count: int) -> list[Problem]:
    """Those of the first `count` problems, or of fewer in the interpreter, that the backend supports."""
    drawn = (draw_problem(1, index) for index in range(scaled_count(count)))
    return [problem for problem in drawn if is_supported(problem)]


@by_dtype
def test_misaligned_pointers(dtype):
    problem = problem_of(
        seqlen_q=50, seqlen_k=70, head_dim=40, head_dim_v=24, window_size=(30, 9), dtype=dtype
    )
    want = forward_backward(run_backend, problem)

    def shifted(x, shift):
        room, begin = torch.zeros(x.numel() + 64, dtype=x.dtype), -(-shift // x.element_size())
        return room[begin : begin + x.numel()].view(x.shape).copy_(x)

    shifts = range(dtype.itemsize, 64, dtype.itemsize)
    for shift in shifts[:: len(shifts) // scaled_count(len(shifts))]:
        moved = with_tensors(problem, lambda x, shift=shift: shifted(x, shift))
        assert moved.q.data_ptr() % 64 == shift
        assert_same_bits(forward_backward(run_backend, moved), want)


@by_dtype
def test_last_dim_not_contiguous(dtype):
    problem = problem_of(seqlen_q=50, head_dim=10, head_dim_v=6, window_size=(9, 3), dtype=dtype)
    want = forward_backward(run_backend, problem)
    got = forward_backward(run_backend, with_tensors(problem, lambda x: x.mT.contiguous().mT))
    assert_same_bits(got, want)


def test_expanded_dout():
    problem = problem_of(seqlen_q=50, window_size=(9, 3))
    q, k, v = (x.requires_grad_() for x in (problem.q, problem.k, problem.v))
    out = run_backend(q, k, v, problem.options)[0]
    got = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    want = torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


def test_memory_around_views_is_not_used():
    """Each tensor is a view of a larger one, full of values that would show: NaN, True, huge numbers."""

    def surrounded(x):
        wide = [size + 3 for size in x.shape]
        room = torch.full(
            wide, torch.nan if x.is_floating_point() else True if x.dtype == torch.bool else MAX
        )
        return room.to(x.dtype)[tuple(slice(1, size + 1) for size in x.shape)].copy_(x)

    for problem in random_problems(80):
        contiguous = with_tensors(problem, torch.Tensor.contiguous)
        got = forward_backward(run_backend, with_tensors(contiguous, surrounded))
        assert_same_bits(got, forward_backward(run_backend, contiguous))


@pytest.mark.isa
@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
def test_nothing_is_read_past_the_page_end():
    program = Path(__file__).parents[1] / "helpers/attention_at_page_end.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, program.parents[1:3]))}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment)
    assert done.stdout.endswith("done\n"), (
        f"exit {done.returncode} at\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    )


def test_inputs_are_unchanged_and_outputs_are_new_memory():
    for problem in random_problems(60):
        tensors = []
        with_tensors(problem, lambda x, seen=tensors: seen.append(x) or x)
        before = [x.clone() for x in tensors]
        results = forward_backward(run_backend, problem)
        for x, y in zip(tensors, before, strict=True):
            assert torch.equal(x, y)
        places = [x.untyped_storage().data_ptr() for x in results.values() if x.numel()]
        inputs = {x.untyped_storage().data_ptr() for x in tensors if x.numel()}
        assert len(set(places)) == len(places) and not inputs.intersection(places)


def test_fresh_memory_is_not_used():
    """New memory holds NaN in every test; without that the bits are the same."""
    poisoned = [forward_backward(run_backend, problem) for problem in random_problems(60)]
    torch.use_deterministic_algorithms(False)
    for problem, want in zip(random_problems(60), poisoned, strict=True):
        assert_same_bits(forward_backward(run_backend, problem), want)


@pytest.mark.skipif(not EXACT_NAN, reason="NaN may reach the rows of its tile, as Triton's README says")
@by_dtype
@pytest.mark.parametrize("sinks", (False, True))
def test_a_bad_value_of_few_queries_leaves_the_others(dtype, sinks):
    """The last key's value is NaN; the keys beside it have much larger scores than those before."""
    score = Score(sink_logits=torch.ones(2)) if sinks else None
    problem = problem_of(
        seqlen_q=4, seqlen_k=200, head_dim=64, head_dim_v=64, window_size=(-1, 0), layout=Layout(offset=196),
        score=score, dtype=dtype,
    )  # fmt: skip
    problem.k[:, 192:199] = 3 * problem.q[:, :1].mean(2, keepdim=True)

    def run():
        return run_backend(problem.q, problem.k, problem.v, problem.options)[0]

    want = run()
    problem.v[:, 199] = torch.nan
    out = run()
    assert out[:, 3].isnan().all()
    torch.testing.assert_close(out[:, :3], want[:, :3], rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("where", ("dlse", "v"))
@pytest.mark.parametrize("softcap", (0.0, 20.0))
def test_nonfinite_values_do_not_reach_padding(where, softcap):
    """The gradients of keys from kv_end on are 0, with any values of the keys before them and of dlse."""
    layout, score = Layout(kv_end=torch.tensor([40])), Score(softcap=softcap)
    problem = problem_of(seqlen_q=50, seqlen_k=50, layout=layout, score=score, window_size=(-1, 0))
    if where == "dlse":
        problem.dlse[:, :, 20] = torch.inf
    else:
        getattr(problem, where)[:, 20] = torch.inf
    results = forward_backward(run_backend, problem)
    assert not results["dq"].isfinite().all(), "it was planted"
    for name in ("dk", "dv"):
        assert (results[name][:, 40:] == 0).all(), name


@by_backend
def test_a_row_of_nan_shows_in_every_gradient(backend):
    q, k, v = (torch.randn(1, 6, 2, 4) for _ in range(3))
    q[:, 3] = torch.nan
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = lckernels.windowed_attention(*inputs, window_size=(1, 0), backend=backend)
    dq, dk, dv = torch.autograd.grad(out, inputs, torch.ones_like(out))
    rows = torch.arange(6)
    for x, bad in ((dq, rows == 3), (dk, (rows == 2) | (rows == 3)), (dv, (rows == 2) | (rows == 3))):
        bad = bad[None, :, None, None].expand_as(x)
        exact = EXACT_NAN or backend == "eager"
        assert torch.equal(x.isnan(), bad) if exact else x[bad].isnan().all()


@pytest.mark.skipif(TESTED == "cpu", reason="the cpu backend reads bounds and refuses them")
@pytest.mark.parametrize(
    "bounds",
    ([0], [0, 7], [3, 9, 15], [0, 40], [9, 4, 21], [-5, 2**31 - 1]),
    ids=lambda x: "_".join(map(str, x)),
)
def test_wrong_bounds_access_no_other_memory(bounds):
    """If the host reads no bounds: rows outside segments are 0 without keys; no other memory is read."""
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32)
    layout = Layout(cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens)
    problem = problem_of(layout=layout, window_size=(5, 0))
    results = forward_backward(run_backend, problem)
    covered = torch.zeros(21, dtype=torch.bool)
    for begin, end in pairwise(bounds):
        covered[max(begin, 0) : max(min(end, 21), 0)] = True
    for name in ("out", "dq", "dk", "dv"):
        assert (results[name][:, ~covered] == 0).all() and results[name].isfinite().all(), name
    assert (results["lse"][:, :, ~covered] == -torch.inf).all()
