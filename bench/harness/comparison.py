"""One case, all providers: checked first, then timed in turns with pytest-benchmark around our own call."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.harness.check import Checked
from bench.harness.rows import Row
from bench.harness.timing import Call, Timing, Turns, prime, primed_clock, wall_clock
from lckernels.backends.registry import Problem, choose

OWN = "lckernels"
WARM = f"{OWN} warm"  # the same on an output that exists


def chosen_backend(op: str, *inputs: Tensor, score_bytes: int = 0) -> str:
    """The backend that serves the op on such inputs. Raises BackendError when none can."""
    shapes = tuple(x.shape for x in inputs)
    module = choose(Problem(op, inputs[0].device.type, inputs[0].dtype, shapes, score_bytes))
    return module.__name__.rpartition(".")[2]


@dataclass(frozen=True)
class Effort:
    """At most so many rounds, and so many seconds for our own call and for each peer.

    A peer of which one call takes more than `call_seconds` does not take part, where a contest asks for that.
    """

    rounds: int
    seconds: float
    peer_seconds: float
    call_seconds: float = float("inf")


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
    effort: Effort,
    self_timed: dict[str, Callable[[], float]] | None = None,
    *,
    primed: bool = False,
) -> dict[str, Timing]:
    """Times calls[OWN] through the benchmark fixture, every other call once before each of its rounds.

    Every call must have run before, ours in `once` seconds: a slow one gets fewer rounds. `self_timed` calls
    return their seconds. `primed`: each call is timed after `timing.prime`.
    """
    rounds = max(2, min(effort.rounds, int(effort.seconds / once)))
    kept: list[object] = []

    def before_round() -> None:
        kept.clear()  # our last output is freed outside the clock, as the peers' outputs are
        turns.round()
        if primed:
            prime(calls[OWN], once)

    others = {name: call for name, call in calls.items() if name != OWN}
    clock = primed_clock if primed else wall_clock
    turns = Turns(others, effort.peer_seconds, clock, self_timed=self_timed)
    benchmark.pedantic(lambda: kept.append(calls[OWN]()), setup=before_round, rounds=rounds)
    return {OWN: Timing.of(benchmark.stats.stats.data), **turns.timings()}


@dataclass(frozen=True)
class Subject:
    """What the rows of one contest have in common."""

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
    ceilings: dict[str, float],
    percent_of: Sequence[str],
    *,
    alike: Sequence[str] = (),
    output: str = "",
    extra_bytes: Mapping[str, int | None] | None = None,
    notes: Mapping[str, str] | None = None,
    left_out: Mapping[str, str] | None = None,
) -> list[Row]:
    """A row for every provider in `checks`, with its ratio to each of the others.

    ceilings            name -> work per second, measured in the same run
    percent_of, alike   the ceilings that the row's two percentages are of
    extra_bytes, notes  by provider, see Row
    left_out            peers that did not take part, and why
    """
    scaled = {name: rate / 1e9 for name, rate in ceilings.items()}

    def row(name: str) -> Row:
        return Row(
            **(vars(subject) | {"backend": subject.backend if name in (OWN, WARM) else ""}),
            provider=OWN if name == WARM else name,
            timing=timings[name],
            check=checks[name],
            output=output,
            ceilings=scaled,
            percent_of=tuple(percent_of),
            alike=tuple(alike),
            ratios={peer: timings[peer].median / timings[name].median for peer in checks if peer != name},
            extra_bytes=(extra_bytes or {}).get(name),
            note=(notes or {}).get(name, ""),
            left_out=dict(left_out or {}) if name == OWN else {},
        )

    return [row(name) for name in checks]
