"""Rows of a benchmark without a measurement."""

from bench.harness import rows
from bench.harness.check import Checked
from bench.harness.comparison import OWN, Subject, make_rows
from bench.harness.timing import Timing


def synthetic_rows(seqlen: int = 64, direction: str = "forward") -> list[rows.Row]:
    """A row of ours (2 s, 2 GFLOP/s) and one of a peer that takes a quarter of the time."""
    subject = Subject(
        suite="gpu_attention",
        op="windowed_attention",
        direction=direction,
        shape={"seqlen": seqlen, "window": "15,0"},
        dtype="float32",
        work=4e9,
        unit="GFLOP/s",
        backend="eager",
    )
    timings = {OWN: Timing(2.0, 1.9, 2.2, 7), "flex": Timing(0.5, 0.5, 0.6, 7)}
    checks = dict.fromkeys(timings, Checked(error=1e-7, bound=1e-6))
    return make_rows(subject, timings, checks, {"fma": 8e9, "amx": 9e9}, ("fma",))
