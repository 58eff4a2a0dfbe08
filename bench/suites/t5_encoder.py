"""The encoder of T5: lckernels.patch, exact and with a window, against transformers' default."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from bench.cases.t5 import FULL, T5Case
from bench.harness.check import check
from bench.harness.comparison import OWN, Budget, Subject, chosen_backend, make_rows
from bench.harness.memory import with_extra_bytes
from bench.harness.report.t5_goals import DEFAULT, ENCODER, SUITE
from bench.harness.rows import Row
from bench.harness.timing import Turns
from bench.peers.t5 import plain_states

_NOTE = "attends to all tokens: another result"
Window = tuple[int, int]


def t5_rows(case: T5Case, budget: Budget, log: Callable[[str], None] = print) -> list[Row]:
    """The rows with full attention, if the case has them, and those with the window.

    Raises:
        AssertionError: A result is wrong.
    """
    import lckernels

    model, ids = case.build()
    models = {DEFAULT: model, **{str(w): _shared(model) for w in _windows(case)}}
    for window in _windows(case):
        lckernels.patch(models[str(window)], window=None if window == FULL else case.window)
    checks, extra_bytes, calls = {}, {}, {}
    expected = {window: _expected(model, ids, window) for window in (FULL, case.sides)}
    for name, one in models.items():
        calls[name] = partial(_states, one, ids)
        results, extra_bytes[name] = with_extra_bytes(calls[name])
        want = expected[FULL if name in (DEFAULT, str(FULL)) else case.sides]
        checks[name] = check(name, results, *want)
        log(f"  {case.label} {name}: off by {checks[name].error:.2g}, {_mebibytes(extra_bytes[name])}")
    del expected, results
    turns = Turns(calls, budget.peer_seconds)
    for _ in range(budget.rounds):
        turns.round()
    timings = turns.timings()
    made = []
    for window in _windows(case):
        names = {OWN: str(window), DEFAULT: DEFAULT}
        made += make_rows(
            _subject(case, model, window),
            {name: timings[way] for name, way in names.items()},
            {name: checks[way] for name, way in names.items()},
            {},
            (),
            extra_bytes={name: extra_bytes[way] for name, way in names.items()},
            notes={} if window == FULL else {DEFAULT: _NOTE},
        )
    return made


def _windows(case: T5Case) -> list[Window]:
    return [FULL, case.sides] if case.full else [case.sides]


def _shared(model: nn.Module) -> nn.Module:
    """A copy that shares the weights."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _states(model: nn.Module, ids: Tensor) -> tuple[Tensor]:
    with torch.inference_mode():
        return (model(input_ids=ids).last_hidden_state,)


def _expected(model: nn.Module, ids: Tensor, window: Window) -> tuple[tuple[Tensor], tuple[Tensor]]:
    """The states in fp64, and those of plain torch in fp32."""
    want, baseline = (plain_states(model, ids, window, dtype) for dtype in (torch.float64, torch.float32))
    return (want,), (baseline,)


def _subject(case: T5Case, model: nn.Module, window: Window) -> Subject:
    q = torch.empty(1, case.seqlen, case.heads, case.head_dim)
    return Subject(
        suite=SUITE,
        op=ENCODER,
        direction="forward",
        shape=case.shape(window) | {"default": model.config._attn_implementation},
        dtype="float32",
        work=case.flops(window),
        unit="GFLOP/s",
        backend=chosen_backend("windowed_attention", q, q, q),
    )


def _mebibytes(size: int | None) -> str:
    return "memory not measured" if size is None else f"{size / 2**20:.0f} MiB"
