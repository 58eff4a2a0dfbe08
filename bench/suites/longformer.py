"""Longformer on lckernels.patch against transformers' own: the attention of a layer, and the whole model."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases.longformer import ATTENTION, TRAINING, LongformerCase
from bench.harness.check import check
from bench.harness.comparison import OWN, Budget, Subject, chosen_backend, make_rows
from bench.harness.memory import with_extra_bytes
from bench.harness.report.longformer_goals import DEFAULT, SUITE
from bench.harness.rows import Row
from bench.harness.timing import Turns

Call = Callable[[], tuple[Tensor, ...]]


def longformer_rows(case: LongformerCase, budget: Budget, log: Callable[[str], None] = print) -> list[Row]:
    """A row of the patched model, and one of transformers' own.

    The expected results are those of transformers' own in fp64, whose softmax is in fp32.

    Raises:
        AssertionError: A result is wrong.
    """
    import lckernels

    model, inputs = case.build()
    want = tuple(x.float() for x in _call(case, copy.deepcopy(model).double(), inputs)())
    # The weights are shared.
    ours = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    lckernels.patch(ours)
    calls = {OWN: _call(case, ours, inputs), DEFAULT: _call(case, model, inputs)}
    baseline = calls[DEFAULT]()
    checks, extra_bytes = {}, {}
    for name, call in calls.items():
        results, extra_bytes[name] = with_extra_bytes(call)
        checks[name] = check(name, results, want, baseline)
        size = "memory not measured" if extra_bytes[name] is None else f"{extra_bytes[name] / 2**20:.0f} MiB"
        log(f"  {case.label} {name}: off by {checks[name].error:.2g}, {size}")
    del baseline, want, results
    turns = Turns(calls, budget.peer_seconds)
    for _ in range(budget.rounds):
        turns.round()
    q = torch.empty(1, case.seqlen, case.heads, case.dim // case.heads)
    subject = Subject(
        suite=SUITE, op=case.op, direction=case.direction, shape=case.shape(), dtype="float32",
        work=case.flops(), unit="GFLOP/s", backend=chosen_backend("windowed_attention", q, q, q),
    )  # fmt: skip
    return make_rows(subject, turns.timings(), checks, {}, (), extra_bytes=extra_bytes)


def _call(case: LongformerCase, model: nn.Module, inputs: dict[str, Tensor]) -> Call:
    """() -> the states; in training the gradients of the weights too, and of the states before a layer."""
    if case.op != ATTENTION:
        return partial(_results, case, lambda: model(**inputs).last_hidden_state, tuple(model.parameters()))
    layer = model.encoder.layer[0].attention.self
    dtype = next(model.parameters()).dtype
    x = torch.randn(1, case.seqlen, case.dim, generator=torch.Generator().manual_seed(1)).to(dtype)
    mask = inputs["global_attention_mask"].to(dtype)
    masks = {"is_index_masked": mask < 0, "is_index_global_attn": mask > 0}
    masks |= {"attention_mask": mask, "is_global_attn": case.global_tokens > 0}
    x.requires_grad_(case.direction == TRAINING)
    return partial(_results, case, lambda: layer(x, **masks)[0], (x, *layer.parameters()))


def _results(
    case: LongformerCase, forward: Callable[[], Tensor], weights: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    if case.direction != TRAINING:
        with torch.inference_mode():
            return (forward(),)
    out = forward()
    gradients = torch.autograd.grad(out.square().mean(), weights, allow_unused=True)
    return (out.detach(), *(x for x in gradients if x is not None))
