"""Times lckernels and its peers on one case in turns, and makes a row of each.

The results are checked before (`bench.harness.check`); pytest-benchmark times our own call.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from bench.harness.check import Checked
from bench.harness.rows import OWN, Row
from bench.harness.timing import Call, Timing, Turns, prime, primed_clock, wall_clock
from lckernels.backends.registry import Problem, choose

WARM = f"{OWN} warm"  # the same with an output that was written before
UNPACKED = f"{OWN}, linear=None"  # the same without packed weights, where OWN has linear="packed"
T = TypeVar("T")


class Unsupported(RuntimeError):
    """A peer does not support the case; the message has the reason."""


def chosen_backend(op: str, *inputs: Tensor, score_bytes: int = 0) -> str:
    """The name of the backend that runs the op on such inputs.

    Raises:
        BackendError: No backend supports them.
    """
    shapes = tuple(x.shape for x in inputs)
    problem = Problem(op, inputs[0].device.type, inputs[0].dtype, shapes, score_bytes)
    return choose(problem).name


@dataclass(frozen=True)
class Budget:
    """Limits of one comparison.

    Attributes:
        rounds: The largest number of rounds.
        seconds: Seconds for our own call, all rounds together.
        peer_seconds: Seconds for each peer, all rounds together.
        call_seconds: Where a suite supports it, a peer is left out if one call takes longer.
    """

    rounds: int
    seconds: float
    peer_seconds: float
    call_seconds: float = float("inf")


def collect(makers: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Calls every maker.

    Returns:
        The results by name, and for the makers that raised: name -> the reason in one line.
    """
    made: dict[str, T] = {}
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except (AssertionError, Unsupported) as reason:
            left_out[name] = str(reason)
        except Exception as error:  # one broken peer must not cost the others their rows
            first_line = str(error).strip().partition("\n")[0]
            left_out[name] = f"{type(error).__name__}: {first_line}"
    return made, left_out


def first_results(calls: dict[str, Call]) -> tuple[dict[str, Any], float]:
    """What each call returns, which warms it up, and the seconds of our own."""
    begin = time.perf_counter()
    own = calls[OWN]()
    seconds = time.perf_counter() - begin
    return {name: own if name == OWN else call() for name, call in calls.items()}, seconds


def time_with_peers(
    benchmark: Any,
    calls: dict[str, Call],
    once: float,
    budget: Budget,
    self_timed: dict[str, Callable[[], float]] | None = None,
    *,
    primed: bool = False,
) -> dict[str, Timing]:
    """Times calls[OWN] through the benchmark fixture, and every other call once before each of its rounds.

    Args:
        benchmark: The fixture of pytest-benchmark.
        calls: Provider -> its call; every call must have run before.
        once: Seconds of one call of ours; a slow one gets fewer rounds.
        budget: The limits.
        self_timed: Name -> a call that returns its own seconds.
        primed: Whether each call is timed after `timing.prime`.
    """
    rounds = max(2, min(budget.rounds, int(budget.seconds / once)))
    kept: list[object] = []

    def before_round() -> None:
        kept.clear()  # our last output is freed outside the clock, as the peers' outputs are
        turns.round()
        if primed:
            prime(calls[OWN], once)

    others = {name: call for name, call in calls.items() if name != OWN}
    clock = primed_clock if primed else wall_clock
    turns = Turns(others, budget.peer_seconds, clock, self_timed=self_timed)
    benchmark.pedantic(lambda: kept.append(calls[OWN]()), setup=before_round, rounds=rounds)
    return {OWN: Timing.of(benchmark.stats.stats.data), **turns.timings()}


@dataclass(frozen=True)
class Subject:
    """The fields that all rows of one comparison share; see `Row`."""

    suite: str
    op: str
    direction: str
    shape: dict[str, int | str]
    dtype: str
    work: float
    unit: str
    backend: str
    device: str = "cpu"


def make_rows(
    subject: Subject,
    timings: dict[str, Timing],
    checks: dict[str, Checked],
    peak_rates: dict[str, float],
    percent_of: Sequence[str],
    *,
    comparable: Sequence[str] = (),
    output: str = "",
    extra_bytes: Mapping[str, int | None] | None = None,
    notes: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for every provider in `checks`, with its ratio to each of the others.

    Args:
        subject: The shared fields.
        timings: Provider -> its timing.
        checks: Provider -> the result of its check.
        peak_rates: Name -> work per second, measured in the same run.
        percent_of: The peak rates that `percent` is of.
        comparable: The peak rates that `percent_alike` is of.
        output: "fresh", "warm" or empty.
        extra_bytes: Provider -> its peak memory.
        notes: Provider -> what it computes, where that is not the op.
        left_out: Peer -> why it was not timed.
    """
    scaled = {name: rate / 1e9 for name, rate in peak_rates.items()}

    def row(name: str) -> Row:
        return Row(
            **(vars(subject) | {"backend": subject.backend if name in (OWN, WARM) else ""}),
            provider=OWN if name == WARM else name,
            timing=timings[name],
            check=checks[name],
            output=output,
            peak_rates=scaled,
            percent_of=tuple(percent_of),
            comparable=tuple(comparable),
            ratios={peer: timings[peer].median / timings[name].median for peer in checks if peer != name},
            extra_bytes=(extra_bytes or {}).get(name),
            note=(notes or {}).get(name, ""),
            left_out=dict(left_out or {}) if name == OWN else {},
        )

    return [row(name) for name in checks]
