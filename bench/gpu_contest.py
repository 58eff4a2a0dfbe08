"""One case on a GPU: whoever can run is checked, then timed in turns."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from bench import rows
from bench.check import Tensors, check
from bench.contest import OWN, Subject, make_rows
from bench.timing import Call, Clock, measure

ROUNDS, BUDGET = 20, 2.0

Results = Callable[[], Tensors]


class Ceiling(NamedTuple):
    """A call that does nothing but what bounds the subject, and how much of it: bytes or FLOPs."""

    call: Call
    work: float


def copy_ceiling(num_bytes: int, device: str) -> Ceiling:
    """torch's copy that reads and writes so many bytes together."""
    source = torch.ones(num_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Ceiling(lambda: target.copy_(source), num_bytes)


def product_ceiling(size: int, dtype: torch.dtype, device: str) -> Ceiling:
    """A product of two random square matrices; zeros would run faster."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return Ceiling(lambda: a @ b, 2.0 * size**3)


def admit(entrants: dict[str, Callable[[], Results]]) -> dict[str, Results]:
    """The calls that can be built and run here; of the others the reason is printed."""
    calls = {}
    for name, build in entrants.items():
        try:
            call = build()
            call()
        except Exception as error:  # whoever it is, the others still run
            print(f"  {name} is left out: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
            continue
        calls[name] = call
    return calls


def contest(
    subject: Subject,
    calls: dict[str, Results],
    want: Tensors,
    honest: Tensors,
    ceilings: dict[str, Ceiling],
    clock: Clock,
    folder: Path,
    compared: Callable[[Tensors], Tensors] = tuple,
) -> int:
    """Writes and prints a row for every right call; returns how many were wrong, ours also if absent.

    Percentages are of the first ceiling. compared: the part of a result that `want` and `honest` have.
    """
    checks = {}
    for name, call in calls.items():
        try:
            checks[name] = check(name, compared(call()), want, honest)
        except AssertionError as error:
            print(f"  WRONG {error}")
    timed = {name: calls[name] for name in checks}
    bounds = {name: ceiling.call for name, ceiling in ceilings.items()}
    timings = measure(timed | bounds, rounds=ROUNDS, budget=BUDGET, clock=clock)
    rates = {name: ceiling.work / timings[name].median for name, ceiling in ceilings.items()}
    made = make_rows(subject, timings, checks, rates, tuple(ceilings)[:1])
    rows.append(made, folder)
    for row in made:
        percent = row.percent(row.percent_of)
        of = "" if percent is None else f" {percent:5.1f} % of {row.percent_of[0]}"
        spread = f"({1e3 * row.timing.p20:.3f} to {1e3 * row.timing.p80:.3f})"
        print(
            f"  {row.provider:12} {1e3 * row.timing.median:10.3f} ms {spread} {row.rate:10.1f} {row.unit}{of}"
        )
    return len(calls) - len(checks) + (OWN not in calls)
