"""Comparison of the results of a problem, and of their gradients, with the reference in fp64."""

from dataclasses import replace
from functools import cache, partial
from unittest.mock import patch

import torch
from helpers.attention_problem import Problem, moved
from helpers.backends import DEVICE, EXACT_NAN, TESTED
from helpers.compare import assert_as_good_as

from lckernels import reference
from lckernels.arguments import check_attention, check_layout, check_score
from lckernels.dtypes import compute_dtype
from lckernels.fields import flat_options
from lckernels.options import AttentionOptions

ops = torch.ops.lckernels


def run_eager(q, k, v, options: AttentionOptions):
    return ops.windowed_attention(q, k, v, *flat_options(options), "eager")


def run_backend(q, k, v, options: AttentionOptions):
    """The backend under test, on its device; the results are on the CPU."""
    layout, score = (moved(group, DEVICE) for group in (options.layout, options.score))
    seed = None if options.seed is None else options.seed.to(DEVICE)
    options = options._replace(layout=layout, score=score, seed=seed)
    inputs = (x.to(DEVICE) for x in (q, k, v))
    results = ops.windowed_attention(*inputs, *flat_options(options), TESTED)
    return tuple(x.cpu() for x in results)


def forward_backward(attend, problem: Problem, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Results and gradients by name; inputs are converted to dtype, if given."""

    def leaf(x):
        return (x if dtype is None else x.to(dtype)).detach().requires_grad_()

    score = problem.options.score
    inputs = [leaf(x) for x in (problem.q, problem.k, problem.v)]
    parameters = {
        name: leaf(getattr(score, name))
        for name in ("rel_bias", "sink_logits")
        if getattr(score, name) is not None
    }
    options = problem.options._replace(score=replace(score, **parameters))
    out, lse = attend(*inputs, options)
    pairs = [(x, dx.to(x.dtype)) for x, dx in ((out, problem.dout), (lse, problem.dlse)) if dx is not None]
    leaves = [*inputs, *parameters.values()]
    grads = [torch.zeros_like(x) for x in leaves]
    if out.requires_grad:  # the reference's result does not without a segment
        outputs, douts = zip(*pairs, strict=True)
        grads = torch.autograd.grad(outputs, leaves, douts, allow_unused=True, materialize_grads=True)
    names = ["dq", "dk", "dv", *(f"d{name}" for name in parameters)]
    return {"out": out.detach(), "lse": lse.detach(), **dict(zip(names, grads, strict=True))}


def torch_results(attend, problem: Problem, truth: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Results of plain torch arithmetic in the problem's dtype; lse is fp32, or fp64 in fp64.

    In fp64, where plain torch is the truth itself, the error is fp32's, scaled by the ratio of the two eps.
    """
    dtype = problem.q.dtype
    if dtype == torch.float32:
        return forward_backward(attend, problem)
    if dtype == torch.float64:
        single = forward_backward(attend, problem, torch.float32)
        return {name: x + (single[name] - x).nan_to_num() * 2**-29 for name, x in truth.items()}
    with patch.object(reference, "compute_dtype", lambda dtype: dtype):
        honest = forward_backward(attend, problem)
    with torch.no_grad():
        honest["lse"] = attend(problem.q, problem.k, problem.v, problem.options)[1]
    return honest


def rounding_errors(problem: Problem) -> dict[str, float]:
    """The error that rounding may make in each result, from the magnitudes of the inputs.

    It matters where terms of a sum cancel. A sum over queries has the root of their number as factor, since
    errors have either sign.
    """
    dtype = problem.q.dtype
    scale, keep = abs(problem.options.softmax_scale), 1 / (1 - problem.options.dropout_p)
    queries = problem.q.shape[1] * problem.q.shape[2] / problem.k.shape[2]
    tensors = {name: getattr(problem, name) for name in ("q", "k", "v", "dout", "dlse")}
    largest = {name: _largest(x) for name, x in tensors.items()}
    norm = {name: _largest(x.double().norm(dim=-1)) for name, x in tensors.items() if x is not None}
    score = torch.finfo(compute_dtype(dtype)).eps * scale * norm["q"] * norm["k"]
    probability = torch.finfo(dtype).eps + score
    dscore = probability * (norm.get("dout", 0.0) * norm["v"] * keep + largest["dlse"])
    return {
        "out": probability * largest["v"] * keep,
        "lse": score,
        "dq": dscore * scale * largest["k"],
        "dk": dscore * scale * largest["q"] * queries**0.5,
        "dv": probability * largest["dout"] * keep * queries**0.5,
        "drel_bias": dscore * (problem.q.shape[0] * queries) ** 0.5,
        "dsink_logits": dscore * (problem.q.shape[0] * queries) ** 0.5,
    }


def _largest(x: torch.Tensor | None) -> float:
    """The largest finite |x|."""
    return float(torch.where(x.isfinite(), x.abs(), 0).amax()) if x is not None and x.numel() else 0.0


def compare_problem(problem: Problem) -> None:
    q, k, v, options = problem.q, problem.k, problem.v, problem.options
    check_attention(q, k, v, options.window_size, options.softmax_scale, options.dropout_p)
    check_layout(options.layout, q, k)
    check_score(options.score, q)
    got = forward_backward(run_backend, problem)
    truth = forward_backward(reference.attend, problem, torch.float64)
    honest = cache(partial(torch_results, reference.attend, problem, truth))
    assert got["out"].dtype == q.dtype and got["lse"].dtype == compute_dtype(q.dtype)
    rounding = rounding_errors(problem)
    for name, x in got.items():
        assert x.is_contiguous(), f"{name}: not contiguous"
        assert_as_good_as(x, truth[name], lambda name=name: honest()[name], name, rounding[name])


def compare_poisoned(problem: Problem) -> None:
    """Asserts that the same rows are not finite as in the eager backend, and that the others are correct.

    Where a NaN may reach its whole tile: the eager backend's rows are not finite, and what is finite is
    correct. There an infinite key with score -inf has weight 0.
    """
    got = forward_backward(run_backend, problem)
    truth = forward_backward(run_eager, problem, torch.float64)
    honest = cache(partial(torch_results, run_eager, problem, truth))
    if problem.q.isinf().any():  # scores may be -inf, and gradients then 0 * inf or 0
        got = {name: got[name] for name in ("out", "lse")}
    rounding = rounding_errors(problem)
    for name, x in got.items():
        bad, expected = (_bad_rows(name, y) for y in (x, truth[name]))
        places = [(bad & ~expected).nonzero()[:3].tolist(), (expected & ~bad).nonzero()[:3].tolist()]
        if EXACT_NAN:
            wrong = bad != expected
        else:
            wrong = expected.any(-1) & ~bad.any(-1) if name != "lse" else expected & ~bad
            wrong = wrong & ~problem.k.isinf().any()
            bad = bad | expected
        assert not wrong.any(), f"{name}: not finite at {places[0]}, finite at {places[1]}, both wrong"

        def without_bad(results, bad=bad, name=name):
            return torch.where(bad, 0, results[name])

        assert_as_good_as(
            without_bad(got), without_bad(truth), lambda f=without_bad: f(honest()), name, rounding[name]
        )


def _bad_rows(name: str, x: torch.Tensor) -> torch.Tensor:
    """Where x is not finite; -inf is finite in lse. In dq, dk and dv one element counts for its row."""
    bad = ~torch.isfinite(x) if name != "lse" else x.isnan() | x.isposinf()
    return bad.any(-1, keepdim=True) if name in ("dq", "dk", "dv") else bad


def assert_same_bits(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    for name, x in got.items():
        assert torch.equal(x, want[name]), f"{name}: other bits"
