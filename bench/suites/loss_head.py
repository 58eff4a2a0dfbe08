"""The loss of a language model's head: in pieces against cross entropy of all logits, in turns."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases.training import HeadCase
from bench.harness.comparison import OWN, Budget, Subject, make_rows
from bench.harness.report.training_goals import HEAD, LOGITS, SUITE, TRAINING
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import Turns
from bench.suites.patched import checked_calls
from lckernels.training.loss import linear_cross_entropy

_PIECE = 256  # tokens of a piece of the truth


def head_rows(case: HeadCase, budget: Budget, log: Callable[[str], None] = print) -> list[Row]:
    """Our row and that of all logits.

    Raises:
        AssertionError: our result is wrong.
    """
    inputs = case.build()
    calls = {OWN: partial(_in_pieces, *inputs), LOGITS: partial(_all_logits, *inputs)}
    want, baseline = _exact(*inputs), calls[LOGITS]()
    checks, extra_bytes = checked_calls(calls, want, baseline, case.label, log)
    turns = Turns(calls, budget.peer_seconds)
    for _ in range(budget.rounds):
        turns.round()
    subject = Subject(
        suite=SUITE, op=HEAD, direction=TRAINING, shape=case.shape(), dtype=dtype_name(case.dtype),
        work=case.flops(), unit="GFLOP/s", backend="",
    )  # fmt: skip
    return make_rows(subject, turns.timings(), checks, {}, (), extra_bytes=extra_bytes)


def _in_pieces(states: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    loss, _ = linear_cross_entropy(states, weight, None, labels)
    return loss.detach(), *torch.autograd.grad(loss, (states, weight))


def _all_logits(states: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """As transformers computes it, with logits in fp32."""
    loss = F.cross_entropy(F.linear(states, weight).float(), labels, reduction="sum")
    return loss.detach(), *torch.autograd.grad(loss, (states, weight))


@torch.no_grad()
def _exact(states: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """In fp64."""
    states, weight = states.double(), weight.double()
    total, of_states, of_weight = states.new_zeros(()), [], torch.zeros_like(weight)
    for x, wanted in zip(states.split(_PIECE), labels.split(_PIECE), strict=True):
        logits = x @ weight.T
        lse = logits.logsumexp(1)
        total += (lse - logits.gather(1, wanted[:, None])[:, 0]).sum()
        grad = (logits - lse[:, None]).exp()
        grad[torch.arange(len(x)), wanted] -= 1
        of_states.append(grad @ weight)
        of_weight += grad.T @ x
    return total, torch.cat(of_states), of_weight
