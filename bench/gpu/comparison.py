"""One case on a GPU: every provider that runs is checked, then all are timed in turns."""

import argparse
import gc
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from bench.harness import rows
from bench.harness.check import Tensors, check
from bench.harness.comparison import OWN, Subject, collect, make_rows
from bench.harness.timing import Call, Clock, cuda_clock, measure, wall_clock

ROUNDS, BUDGET = 20, 2.0

Results = Callable[[], Tensors]
TimeCase = Callable[[str, Clock, Path], int]  # device, clock, folder of the rows -> wrong results


class Probe(NamedTuple):
    """A call whose rate bounds the op's rate, and its work in bytes or FLOPs."""

    call: Call
    work: float


def copy_probe(num_bytes: int, device: str) -> Probe:
    """torch's copy that reads and writes `num_bytes` in total."""
    source = torch.ones(num_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Probe(lambda: target.copy_(source), num_bytes)


def product_probe(size: int, dtype: torch.dtype, device: str) -> Probe:
    """A product of two random square matrices (zeros run faster)."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return Probe(lambda: a @ b, 2.0 * size**3)


def parser_of(description: str) -> argparse.ArgumentParser:
    """The options of every module that times on a GPU."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=Path, default=rows.OUTPUT, help="folder for the rows")
    parser.add_argument("--tiny", action="store_true", help="small sizes")
    return parser


def time_each(jobs: Iterable[tuple[str, TimeCase]], device: str, folder: Path) -> int:
    """Runs the jobs; returns the number of wrong results. A job that raises counts as one."""
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


def working_calls(makers: dict[str, Callable[[], Results]]) -> dict[str, Results]:
    """The calls that can be built and run here; for the others the reason is printed."""

    def run_once(build: Callable[[], Results]) -> Results:
        call = build()
        call()
        return call

    calls, left_out = collect({name: partial(run_once, build) for name, build in makers.items()})
    for name, reason in left_out.items():
        print(f"  {name} is left out: {reason}")
    return calls


def compare(
    subject: Subject,
    calls: dict[str, Results],
    want: Tensors,
    baseline: Tensors,
    probes: dict[str, Probe],
    clock: Clock,
    folder: Path,
    compared: Callable[[Tensors], Tensors] = tuple,
) -> int:
    """Checks and times the calls; stores and prints a row for every correct one.

    Args:
        subject: The shared fields of the rows.
        calls: Provider -> its call.
        want: The expected results.
        baseline: The results of plain torch in the case's dtype.
        probes: Name -> probe; the percentages are of the first.
        clock: Times a call.
        folder: Where the rows are stored.
        compared: Returns the part of a result that `want` and `baseline` have.

    Returns:
        The number of wrong results; a missing result of ours counts as one.
    """
    checks = {}
    for name, call in calls.items():
        try:
            checks[name] = check(name, compared(call()), want, baseline)
        except AssertionError as error:
            print(f"  WRONG {error}")
    timed = {name: calls[name] for name in checks}
    bounds = {name: probe.call for name, probe in probes.items()}
    timings = measure(timed | bounds, rounds=ROUNDS, budget=BUDGET, clock=clock)
    rates = {name: probe.work / timings[name].median for name, probe in probes.items()}
    made = make_rows(subject, timings, checks, rates, tuple(probes)[:1])
    rows.append(made, folder)
    for row in made:
        percent = row.percent(row.percent_of)
        of = "" if percent is None else f" {percent:5.1f} % of {row.percent_of[0]}"
        spread = f"({1e3 * row.timing.p20:.3f} to {1e3 * row.timing.p80:.3f})"
        print(
            f"  {row.provider:12} {1e3 * row.timing.median:10.3f} ms {spread} {row.rate:10.1f} {row.unit}{of}"
        )
    return len(calls) - len(checks) + (OWN not in calls)
