"""One training step of SmolLM2: lckernels.patch with a window against transformers' sdpa, in turns.

Every way has gradient checkpoints. Ours and two peers have the loss of `lckernels.training`, in pieces; the
default has transformers' own, on all logits. Each is checked on the model's first layers.

`python -m bench.suites.training_step TOKENS LAYERS [--autocast]` prints seconds and memory of each way,
without the check, whose truth in fp64 takes longer than the steps.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases.training import StepCase
from bench.harness.check import Checked, check
from bench.harness.comparison import OWN, Budget, Subject, chosen_backend, make_rows
from bench.harness.memory import with_extra_bytes
from bench.harness.report.patched_goals import DEFAULT
from bench.harness.report.training_goals import MASK, SDPA, STEP, SUITE, TRAINING
from bench.harness.rows import Row, dtype_name
from bench.harness.timing import Turns
from lckernels.training.loss import linear_cross_entropy

CHECKED_LAYERS = 2  # of the check, whose truth is in fp64
Results = tuple[Tensor, ...]
Step = Callable[[nn.Module, StepCase, Tensor], Results]


def step_rows(
    case: StepCase, model: nn.Module, ids: Tensor, budget: Budget, log: Callable[[str], None] = print
) -> list[Row]:
    """The row of the patched model and those of its peers.

    Args:
        case: its sizes.
        model: a causal model with full attention, fp32.
        ids: (1, seqlen).
        budget: limits of the rounds, and of the seconds of each way.
        log: gets a line per way.

    Raises:
        AssertionError: a result is wrong.
    """
    checks = _checked(case, _first_layers(model), ids)
    calls, extra_bytes = {}, {}
    for name, (make, step) in WAYS.items():
        calls[name] = partial(step, make(model, case), case, ids)
        _, extra_bytes[name] = with_extra_bytes(calls[name])
        size = "memory not measured" if extra_bytes[name] is None else f"{extra_bytes[name] / 2**20:.0f} MiB"
        log(f"  {case.label} {name}: off by {checks[name].error:.2g}, {size}")
    turns = Turns(calls, budget.peer_seconds)
    for _ in range(budget.rounds):
        turns.round()
    notes = {
        MASK: "the same window and sink tokens, as a mask",
        SDPA: "full attention",
        DEFAULT: "full attention, the loss on all logits",
    }
    return make_rows(
        _subject(case, model), turns.timings(), checks, {}, (), extra_bytes=extra_bytes, notes=notes
    )


def _stock(model: nn.Module, case: StepCase) -> nn.Module:
    """A copy in training, with the same weights and gradient checkpoints."""
    copied = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()}).train()
    copied.set_attn_implementation("sdpa")
    copied.gradient_checkpointing_enable({"use_reentrant": False})
    return copied


def _with_mask(model: nn.Module, case: StepCase) -> nn.Module:
    copied = _stock(model, case)
    copied.given_mask = case.mask()  # made before the step is timed
    return copied


def _patched(model: nn.Module, case: StepCase) -> nn.Module:
    import lckernels

    copied = _stock(model, case)
    lckernels.patch(copied, window=case.window, sink_tokens=case.sinks)
    return copied


def _in_pieces(model: nn.Module, case: StepCase, ids: Tensor, mask: Tensor | None = None) -> Results:
    """The loss and all gradients; logits exist for some tokens at a time."""
    with _autocast(case):
        states = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        total, _ = linear_cross_entropy(states[0, :-1], model.lm_head.weight, None, ids[0, 1:])
        loss = total / (ids.shape[1] - 1)
    return _results(model, loss)


def _masked(model: nn.Module, case: StepCase, ids: Tensor) -> Results:
    return _in_pieces(model, case, ids, model.given_mask)


def _all_logits(model: nn.Module, case: StepCase, ids: Tensor) -> Results:
    with _autocast(case):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    return _results(model, loss)


WAYS: dict[str, tuple[Callable[[nn.Module, StepCase], nn.Module], Step]] = {
    OWN: (_patched, _in_pieces),
    MASK: (_with_mask, _masked),
    SDPA: (_stock, _in_pieces),
    DEFAULT: (_stock, _all_logits),
}


def _autocast(case: StepCase) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=case.autocast)


def _results(model: nn.Module, loss: Tensor) -> Results:
    return loss.detach(), *torch.autograd.grad(loss, tuple(model.parameters()))


def _first_layers(model: nn.Module) -> nn.Module:
    """A model of the first layers, with the same weights."""
    copied = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    copied.model.layers = copied.model.layers[:CHECKED_LAYERS]
    copied.config.num_hidden_layers = CHECKED_LAYERS
    return copied


def _checked(case: StepCase, model: nn.Module, ids: Tensor) -> dict[str, Checked]:
    """Each way against the same function in fp64; the bound is from transformers' own in the case's dtype."""
    found = {}
    exact = _with_mask(copy.deepcopy(model).double(), case)
    plain_case = StepCase(case.seqlen, case.layers, False, case.window, case.sinks)
    for step, names in ((_masked, (OWN, MASK)), (_in_pieces, (SDPA, DEFAULT))):
        truth = step(exact, plain_case, ids)
        baseline = _in_dtype(step(_with_mask(model, case), case, ids), case)
        for name in names:
            make, of_way = WAYS[name]
            results = _in_dtype(of_way(make(model, case), case, ids), case)
            found[name] = check(name, results, truth, baseline)
    return found


def _in_dtype(results: Results, case: StepCase) -> Results:
    """The loss, and gradients in the dtype of the products, whose tolerance they have."""
    return results[0], *(x.to(case.dtype) for x in results[1:])


def _subject(case: StepCase, model: nn.Module) -> Subject:
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads)
    q, k = (torch.empty(1, case.seqlen, n, config.head_dim, dtype=case.dtype) for n in heads)
    return Subject(
        suite=SUITE,
        op=STEP,
        direction=TRAINING,
        shape=case.shape(),
        dtype=dtype_name(case.dtype),
        work=case.flops(model),
        unit="GFLOP/s",
        backend=chosen_backend("windowed_attention", q, k, k),
    )


def unchecked(case: StepCase, rounds: int) -> None:
    """Prints seconds and peak memory of a step of each way, in turns, and the difference of its loss."""
    model, ids = case.build()
    steps = {name: partial(step, make(model, case), case, ids) for name, (make, step) in WAYS.items()}
    first: dict[str, float] = {}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            results, size = with_extra_bytes(step)
            seconds = time.perf_counter() - start
            off = float(results[0]) - first.setdefault("loss", float(results[0]))
            print(
                f"{name}: {seconds:.1f} s, {(size or 0) / 2**20:.0f} MiB, loss off by {off:.2g}", flush=True
            )
            del results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tokens", type=int)
    parser.add_argument("layers", type=int)
    parser.add_argument("--autocast", action="store_true", help="bf16")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    unchecked(StepCase(options.tokens, options.layers, options.autocast), options.rounds)


if __name__ == "__main__":
    main()
