"""A model on lckernels.patch against transformers' own: checked, memory measured, timed in turns."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.harness.check import Checked, check
from bench.harness.comparison import OWN, Budget, Subject, make_rows
from bench.harness.memory import with_extra_bytes
from bench.harness.report.patched_goals import DEFAULT
from bench.harness.rows import Row
from bench.harness.timing import Turns

Call = Callable[[], tuple[Tensor, ...]]


def patched_rows(
    subject: Subject,
    label: str,
    model: nn.Module,
    make_call: Callable[[nn.Module], Call],
    budget: Budget,
    log: Callable[[str], None] = print,
) -> list[Row]:
    """A row of the patched model, and one of transformers' own.

    The expected results are those of transformers' own in fp64, whose softmax is in fp32.

    Args:
        subject: what is timed.
        label: of the case, for the log.
        model: a model in fp32, not patched.
        make_call: from the model, or a copy of it, to the call that is timed.
        budget: rounds and seconds.
        log: gets a line for each provider.

    Raises:
        AssertionError: A result is wrong.
    """
    import lckernels

    want = tuple(x.float() for x in make_call(copy.deepcopy(model).double())())
    # The weights are shared.
    ours = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    lckernels.patch(ours)
    calls = {OWN: make_call(ours), DEFAULT: make_call(model)}
    baseline = calls[DEFAULT]()
    checks, extra_bytes = checked_calls(calls, want, baseline, label, log)
    del baseline, want
    turns = Turns(calls, budget.peer_seconds)
    for _ in range(budget.rounds):
        turns.round()
    return make_rows(subject, turns.timings(), checks, {}, (), extra_bytes=extra_bytes)


def checked_calls(
    calls: dict[str, Call],
    want: tuple[Tensor, ...],
    baseline: tuple[Tensor, ...],
    label: str,
    log: Callable[[str], None],
) -> tuple[dict[str, Checked], dict[str, int | None]]:
    """By provider: the check of its results, and the peak memory of a call above what was there before.

    Args:
        calls: by provider.
        want: the exact results.
        baseline: results by honest torch arithmetic, whose error is the measure.
        label: of the case, for the log.
        log: gets a line for each provider.

    Raises:
        AssertionError: our result is wrong.
    """
    checks, extra_bytes = {}, {}
    for name, call in calls.items():
        results, extra_bytes[name] = with_extra_bytes(call)
        checks[name] = check(name, results, want, baseline)
        size = "memory not measured" if extra_bytes[name] is None else f"{extra_bytes[name] / 2**20:.0f} MiB"
        log(f"  {label} {name}: off by {checks[name].error:.2g}, {size}")
        del results
    return checks, extra_bytes


def results_of(
    forward: Callable[[], Tensor], inputs: tuple[Tensor, ...], training: bool
) -> tuple[Tensor, ...]:
    """The forward's result; in training the gradients of the inputs too, where they have one."""
    if not training:
        with torch.inference_mode():
            return (forward(),)
    out = forward()
    gradients = torch.autograd.grad(out.square().mean(), inputs, allow_unused=True)
    return (out.detach(), *(x for x in gradients if x is not None))
