"""Times the calls of `worker.CALLS` in two checkouts in turns in one run, and prints their ratio.

Two worker processes, one per checkout, are timed alternately: base, this, this, base in each round. The ratio
of a round is this checkout's time over the base's, so values above 1 mean slower; its spread is the 20th to
80th percentile. `noise` is the base's second time over its first. The exit status is 1 if a call is slower:
both the 20th percentile of its ratios and the ratio of the best times exceed 1 + `--tolerance`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.harness.before_after import worker
from bench.harness.report.tables import lines, milliseconds
from bench.harness.timing import Timing

_ROOT = Path(__file__).resolve().parents[3]


class Worker:
    """A process that times calls of one checkout."""

    def __init__(self, checkout: Path, threads: int | None) -> None:
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        command = [sys.executable, "-P", worker.__file__]
        self.process = subprocess.Popen(command, cwd=checkout, env=environment, text=True, **pipes)
        package = Path(self._answer()["path"])
        if not package.is_relative_to(checkout.resolve()):
            self.close()
            raise RuntimeError(f"lckernels of {checkout} was imported from {package}")

    def seconds(self, name: str) -> float:
        """Seconds of one call; the first request of a name builds and warms it."""
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"the worker ended with status {self.process.returncode}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@dataclass(frozen=True)
class Compared:
    """One call on both checkouts.

    Attributes:
        name: Of the call.
        base: Seconds on the base.
        this: Seconds on this checkout.
        best: The smallest time of this checkout over the smallest of the base.
        ratio: This checkout's time over the base's, per round.
        noise: The base's second time over its first, per round.
    """

    name: str
    base: Timing
    this: Timing
    best: float
    ratio: Timing
    noise: Timing

    def slower(self, tolerance: float) -> bool:
        """Whether the 20th percentile of the ratios and the ratio of the best times exceed 1 + tolerance."""
        return min(self.ratio.p20, self.best) > 1 + tolerance


def compare(name: str, base: Worker, this: Worker, rounds: int) -> Compared:
    """Times one call in turns."""
    base.seconds(name), this.seconds(name)
    of_base, of_this, ratios, noise = [], [], [], []
    for _ in range(rounds):
        first = base.seconds(name)
        ours = [this.seconds(name), this.seconds(name)]
        second = base.seconds(name)
        of_base += [first, second]
        of_this += ours
        ratios.append(sum(ours) / (first + second))
        noise.append(second / first)
    best = min(of_this) / min(of_base)
    return Compared(name, Timing.of(of_base), Timing.of(of_this), best, Timing.of(ratios), Timing.of(noise))


def table(found: list[Compared], tolerance: float) -> list[str]:
    """A Markdown table."""
    cells = [
        ["call", "base, ms", "this, ms", "this / base (20-80 %)", "best / best", "noise (20-80 %)", "slower"]
    ]
    for one in found:
        ratio, noise = (f"{x.median:.3f} ({x.p20:.3f}-{x.p80:.3f})" for x in (one.ratio, one.noise))
        times = [milliseconds(one.base.median), milliseconds(one.this.median)]
        slower = "yes" if one.slower(tolerance) else "no"
        cells.append([one.name, *times, ratio, f"{one.best:.3f}", noise, slower])
    return lines(cells)


def main(arguments: list[str] | None = None) -> int:
    """Compares all calls, or those selected; 1 if one is slower."""
    parser = argparse.ArgumentParser(prog="python -m bench.harness.before_after", description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="the other checkout, built")
    parser.add_argument("--rounds", type=int, default=15, help="of four samples (default: %(default)s)")
    parser.add_argument("--only", default="", help="calls whose names match this regular expression")
    parser.add_argument("--threads", type=int, help="threads of each worker (default: torch's)")
    parser.add_argument("--tolerance", type=float, default=0.03, help="default: %(default)s")
    options = parser.parse_args(arguments)
    names = [name for name in worker.CALLS if re.search(options.only, name)]
    if not names:
        parser.error(f"no call matches {options.only}; the calls are {', '.join(worker.CALLS)}")
    base, this = Worker(options.base, options.threads), Worker(_ROOT, options.threads)
    print(f"load average before: {_load()}", flush=True)
    found = []
    try:
        for name in names:
            found.append(compare(name, base, this, options.rounds))
            print(f"{name}: {found[-1].ratio.median:.3f}", file=sys.stderr, flush=True)
    finally:
        base.close()
        this.close()
    print("\n".join(table(found, options.tolerance)))
    middle = median(one.ratio.median for one in found)
    print(f"median ratio {middle:.3f}; load average after: {_load()}")
    return 1 if any(one.slower(options.tolerance) for one in found) else 0


def _load() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
