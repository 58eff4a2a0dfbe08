"""Times calls in turns, so that other load on the machine affects all of them equally."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles

import torch

Call = Callable[[], object]
Clock = Callable[[Call], float]  # seconds of one call


@dataclass(frozen=True)
class Timing:
    """Seconds of one call over `rounds` rounds."""

    median: float
    p20: float
    p80: float
    rounds: int

    @classmethod
    def of(cls, samples: list[float]) -> "Timing":
        if not samples:
            raise ValueError("samples must not be empty")
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], 1)
        fifths = quantiles(samples, n=5, method="inclusive")
        return cls(median(samples), fifths[0], fifths[3], len(samples))


def wall_clock(call: Call) -> float:
    """Seconds of one call on the CPU; what it returns is freed after the clock stops."""
    begin = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - begin
    del result
    return seconds


_SETTLE_SECONDS = (
    0.003  # idle OpenMP threads spin for about a millisecond, and those of two libraries share the cores
)
_SHORT_SECONDS = 0.05
_SAMPLE_SECONDS = 0.005


def prime(call: Call, seconds: float = 0.0) -> None:
    """Waits until idle threads sleep, then runs a short call once to wake its own threads."""
    time.sleep(_SETTLE_SECONDS)
    if seconds < _SHORT_SECONDS:
        call()


def primed_clock(call: Call) -> float:
    """Seconds of one call, of a short one those of its second run after `prime`."""
    time.sleep(_SETTLE_SECONDS)
    seconds = wall_clock(call)
    return seconds if seconds >= _SHORT_SECONDS else wall_clock(call)


def short_clock(call: Call) -> float:
    """Seconds of one short call on the CPU: the mean over the calls of a sample, after `prime`."""
    prime(call)
    begin, count, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < _SAMPLE_SECONDS:
        call()
        count += 1
        elapsed = time.perf_counter() - begin
    return elapsed / count


def cuda_clock(flush_bytes: int = 256 * 2**20) -> Clock:
    """A clock of CUDA events that first overwrites `flush_bytes`, so that no input is in the L2."""
    buffer = torch.empty(flush_bytes, dtype=torch.uint8, device="cuda")

    def clock(call: Call) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        buffer.zero_()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return clock


class Turns:
    """Calls that are timed one after the other, a round at a time.

    A call is skipped in the remaining rounds once it has two samples and used up `budget` seconds.
    """

    def __init__(
        self,
        calls: dict[str, Call],
        budget: float,
        clock: Clock = wall_clock,
        self_timed: dict[str, Callable[[], float]] | None = None,
    ) -> None:
        """`calls` are timed by `clock`; `self_timed` calls return their seconds themselves."""
        timers = {name: partial(clock, call) for name, call in calls.items()}
        self.timers: dict[str, Callable[[], float]] = timers | (self_timed or {})
        self.budget = budget
        self.samples: dict[str, list[float]] = {name: [] for name in self.timers}

    def warm_up(self) -> None:
        for timer in self.timers.values():
            timer()

    def round(self) -> None:
        for name, timer in self.timers.items():
            samples = self.samples[name]
            if len(samples) < 2 or sum(samples) < self.budget:
                samples.append(timer())

    def timings(self) -> dict[str, Timing]:
        return {name: Timing.of(samples) for name, samples in self.samples.items()}


def measure(
    calls: dict[str, Call], *, rounds: int, budget: float, clock: Clock = wall_clock
) -> dict[str, Timing]:
    """Runs every call once, then times all of them in turns."""
    turns = Turns(calls, budget, clock)
    turns.warm_up()
    for _ in range(rounds):
        turns.round()
    return turns.timings()
