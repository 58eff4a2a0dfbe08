"""Two checkouts timed in turns."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.harness.before_after import __main__ as before_after
from bench.harness.before_after import worker
from bench.harness.timing import Timing

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_checkout_is_compared_with_itself(capsys):
    assert before_after.main(["--base", str(ROOT), "--rounds", "2", "--only", "12 tokens|64 keys"]) in (0, 1)
    printed = capsys.readouterr().out
    assert (
        "| LongEncoder on 12 tokens | " in printed and "| decode call over 64 keys (host time) | " in printed
    )
    assert "| windowed" not in printed and "load average before: " in printed


def test_slower_is_more_than_the_noise():
    one = Timing(1.0, 1.0, 1.0, 3)
    same = before_after.Compared("call", one, one, 1.01, Timing(1.1, 1.02, 1.3, 3), one)
    assert not same.slower(0.03)
    assert not replace(same, best=1.2).slower(0.03)
    assert not replace(same, ratio=Timing(1.1, 1.05, 1.3, 3)).slower(0.03)
    assert replace(same, best=1.2, ratio=Timing(1.1, 1.05, 1.3, 3)).slower(0.03)


def test_each_checkout_is_timed_twice_a_round_in_turns():
    order = []

    class Recorder:
        def __init__(self, name, seconds):
            self.name, self.time = name, seconds

        def seconds(self, call):
            order.append(self.name)
            return self.time

    found = before_after.compare("call", Recorder("base", 2.0), Recorder("this", 3.0), rounds=2)
    assert order == ["base", "this"] + ["base", "this", "this", "base"] * 2
    assert (found.best, found.ratio.median, found.noise.median) == (1.5, 1.5, 1.0)


def test_a_folder_without_lckernels_is_an_error(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"lckernels of .* was imported from|the worker ended with status 1"
    ):
        before_after.Worker(tmp_path, threads=1)


@pytest.mark.parametrize("name", worker.CALLS)
def test_every_call_is_built(name):
    assert callable(worker.CALLS[name]())
