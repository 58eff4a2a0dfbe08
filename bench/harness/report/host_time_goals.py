"""The goals of calls that are mostly host time, on a CPU."""

from collections.abc import Callable

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE = "host_time"


def _over(op: str, direction: str, peer: str, shape: dict[str, int]) -> Callable[[list[Stored], str], Found]:
    """Our time over the peer's."""

    def found(rows: list[Stored], dtype: str) -> Found:
        for row in rows:
            of_case = (row["suite"], row["provider"], row["op"], row["direction"], row["dtype"])
            same = of_case == (SUITE, OWN, op, direction, dtype) and shape.items() <= row["shape"].items()
            if same and peer in row["ratios"]:
                yield 1 / row["ratios"][peer], row

    return found


_SHORT = {"tokens": 12}

GOALS = (
    Goal(
        "one query over 64 keys: time / SDPA's",
        (1.5, 1.5),
        _over("windowed_attention", "decode", "sdpa", {"seqlen": 64}),
        True,
    ),
    Goal(
        "LongEncoder, 12 tokens: time / its model's",
        (1.15, None),
        _over("LongEncoder", "forward", "model", _SHORT),
        True,
    ),
    Goal(
        "lengthened model, 12 tokens: time / the model's",
        (1.15, None),
        _over("lengthen", "forward", "model", _SHORT),
        True,
    ),
)
