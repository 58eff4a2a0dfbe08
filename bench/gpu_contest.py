"""One case on a GPU: whoever can run is checked, then timed in turns."""

from collections.abc import Callable
from pathlib import Path

from bench import rows
from bench.check import Tensors, check
from bench.contest import Subject, make_rows
from bench.timing import Call, Clock, measure
from lckernels import BackendError

ROUNDS, BUDGET = 20, 2.0

Results = Callable[[], Tensors]


def admit(entrants: dict[str, Callable[[], Results]]) -> dict[str, Results]:
    """The calls that can be built and run here; of the others the reason is printed."""
    calls = {}
    for name, build in entrants.items():
        try:
            call = build()
            call()
        except (BackendError, RuntimeError, NotImplementedError) as error:
            print(f"  {name} is left out: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
            continue
        calls[name] = call
    return calls


def contest(
    subject: Subject,
    calls: dict[str, Results],
    want: Tensors,
    honest: Tensors,
    copies: dict[str, Call],
    clock: Clock,
    folder: Path,
) -> int:
    """Writes and prints a row for every right call; returns how many were wrong. Copies are the ceilings."""
    checks = {}
    for name, call in calls.items():
        try:
            checks[name] = check(name, call(), want, honest)
        except AssertionError as error:
            print(f"  WRONG {error}")
    timed = {name: calls[name] for name in checks}
    timings = measure(timed | copies, rounds=ROUNDS, budget=BUDGET, clock=clock)
    ceilings = {name: subject.work / timings[name].median for name in copies}
    made = make_rows(subject, timings, checks, ceilings, tuple(copies))
    rows.append(made, folder)
    for row in made:
        percent = row.percent(row.percent_of)
        of_copy = "" if percent is None else f" {percent:5.1f} % of copy"
        print(f"  {row.provider:12} {1e3 * row.timing.median:10.3f} ms {row.rate:10.1f} {row.unit}{of_copy}")
    return len(calls) - len(checks)
