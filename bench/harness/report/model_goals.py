"""The goals of patched models on a CPU."""

from collections.abc import Callable

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE = "models"
FLOOR = "floor"  # the provider without attention


def _against(family: str, seqlen: int, peer: str) -> Callable[[list[Stored], str], Found]:
    """The peer's time over ours; "default" is the implementation that transformers selects."""

    def found(rows: list[Stored], dtype: str) -> Found:
        for row in rows:
            of_case = (row["suite"], row["provider"], row["op"], row["dtype"], row["shape"]["seqlen"])
            name = row["shape"]["default"] if peer == "default" else peer
            if of_case == (SUITE, OWN, family, dtype, seqlen) and name in row["ratios"]:
                yield row["ratios"][name], row

    return found


def _over_floor(family: str, seqlen: int) -> Callable[[list[Stored], str], Found]:
    def found(rows: list[Stored], dtype: str) -> Found:
        return ((1 / ratio, row) for ratio, row in _against(family, seqlen, FLOOR)(rows, dtype))

    return found


GOALS = (
    Goal(
        "window of 1024, N=16k: time / attention left out", (1.15, 1.15), _over_floor("mistral", 16384), True
    ),
    Goal("window of 1024, N=16k, against the default", (5.0, 5.0), _against("mistral", 16384, "default")),
    Goal("ModernBERT, N=8k, against sdpa", (2.2, 3.0), _against("modernbert", 8192, "sdpa")),
    Goal("sinks as gpt-oss has, N=8k, against the default", (5.0, 5.0), _against("gpt_oss", 8192, "default")),
)
