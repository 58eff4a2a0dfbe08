"""The part of pytest-benchmark's fixture that a comparison uses."""

from types import SimpleNamespace

from bench.harness.timing import wall_clock


class Clock:
    """Times the rounds of a comparison."""

    def pedantic(self, call, setup, rounds):
        seconds = []
        for _ in range(rounds):
            setup()
            seconds.append(wall_clock(call))
        self.stats = SimpleNamespace(stats=SimpleNamespace(data=seconds))
