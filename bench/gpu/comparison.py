"""One case on a GPU: whoever can run is checked, then timed in turns."""

import argparse
import gc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.harness import rows
from bench.harness.check import Tensors, check
from bench.harness.comparison import OWN, Subject, make_rows
from bench.harness.timing import Call, Clock, cuda_clock, measure, wall_clock
from bench.suites.verified import admitted

ROUNDS, BUDGET = 20, 2.0

Results = Callable[[], Tensors]
TimeCase = Callable[[str, Clock, Path], int]  # device, clock, folder for the rows: how many were wrong


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


def parser_of(description: str) -> argparse.ArgumentParser:
    """What every script that times on a GPU takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=Path, default=rows.RESULTS, help="folder for the rows")
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    return parser


def time_each(jobs: Iterable[tuple[str, TimeCase]], device: str, folder: Path) -> int:
    """Runs the jobs, each with its title; how many results were wrong, a job that raises counts as one."""
    clock = cuda_clock() if device == "cuda" else wall_clock
    failures = 0
    for title, time_case in jobs:
        print(title, flush=True)
        try:
            failures += time_case(device, clock, folder)
        except Exception as error:  # the other jobs still run
            failures += 1
            print(f"  FAILED {type(error).__name__}: {error}")
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    return failures


def admit(entrants: dict[str, Callable[[], Results]]) -> dict[str, Results]:
    """The calls that can be built and run here; of the others the reason is printed."""

    def started(build: Callable[[], Results]) -> Results:
        call = build()
        call()
        return call

    calls, left_out = admitted({name: partial(started, build) for name, build in entrants.items()})
    for name, reason in left_out.items():
        print(f"  {name} is left out: {reason}")
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
