"""The goals of generation with a window: decode steps far into a sequence, and a long prompt."""

from collections.abc import Callable, Iterator

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored, commit_of, machine_of
from bench.harness.rows import OWN

SUITE = "generation"
DECODE, PREFILL = "decode_step", "prefill"  # ops
STOCK = "sdpa"  # the provider without a patch
_PACKED = {"window": 1024, "sinks": 4, "positions": "absolute", "linear": "packed"}
_EXACT = {"window": "none", "linear": "none"}
_LONG = {"seqlen": 32768, "layers": 30, "window": 1024}


def _own(rows: list[Stored], op: str, dtype: str, shape: dict[str, int | str]) -> Iterator[Stored]:
    for row in rows:
        of_case = (row["suite"], row["provider"], row["op"], row["dtype"])
        if of_case == (SUITE, OWN, op, dtype) and shape.items() <= row["shape"].items():
            yield row


def _against(op: str, peer: str, shape: dict[str, int | str]) -> Callable[[list[Stored], str], Found]:
    """The peer's time over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        for row in _own(rows, op, dtype, shape):
            if peer in row["ratios"]:
                yield row["ratios"][peer], row

    return found


def _own_speed(cached: int, before: int) -> Callable[[list[Stored], str], Found]:
    """The time of our step after `before` tokens over that after `cached`, of rows of one run."""

    def found(rows: list[Stored], dtype: str) -> Found:
        earlier = {
            (machine_of(row), commit_of(row), row["date"][:10]): row["timing"]["median"]
            for row in _own(rows, DECODE, dtype, _PACKED | {"cached": before})
        }
        for row in _own(rows, DECODE, dtype, _PACKED | {"cached": cached}):
            run = machine_of(row), commit_of(row), row["date"][:10]
            if run in earlier:
                yield earlier[run] / row["timing"]["median"], row

    return found


def _smaller(peer: str) -> Callable[[list[Stored], str], Found]:
    """The peer's peak memory above the model over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        sizes = {
            str(row["shape"]): row["extra_bytes"]
            for row in rows
            if (row["suite"], row["provider"], row["op"]) == (SUITE, peer, PREFILL)
        }
        for row in _own(rows, PREFILL, dtype, _LONG):
            if row["extra_bytes"] and sizes.get(str(row["shape"])):
                yield sizes[str(row["shape"])] / row["extra_bytes"], row

    return found


GOALS = (
    Goal("a step after 32k tokens, W=1024 + 4, against sdpa", (6.0, None),
         _against(DECODE, STOCK, _PACKED | {"cached": 32768})),
    Goal("the same: its speed / that after 2k tokens", (0.95, None), _own_speed(32768, 2048)),
    Goal("a step after 64 tokens, exact, against sdpa", (1.0, None),
         _against(DECODE, STOCK, _EXACT | {"cached": 64})),
    Goal("a step after 1,028 tokens, exact, against sdpa", (1.0, None),
         _against(DECODE, STOCK, _EXACT | {"cached": 1028})),
    Goal("prefill of 32k tokens, W=1024, against flex", (1.25, None), _against(PREFILL, "flex", _LONG)),
    Goal("the same: peak memory of flex / ours", (2.0, None), _smaller("flex")),
)  # fmt: skip
