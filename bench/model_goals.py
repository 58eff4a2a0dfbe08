"""What patched models should reach on a CPU and what the rows say: `python -m bench.model_goals [FOLDER]`."""

import sys
from collections.abc import Callable
from pathlib import Path

from bench import report
from bench.goals import OWN, Found, Goal, Stored
from bench.model_peers import FLOOR
from bench.rows import RESULTS

SUITE = "models"
_DTYPES = ("float32", "bfloat16")


def _against(family: str, seqlen: int, peer: str) -> Callable[[list[Stored], str], Found]:
    """Times as fast as the peer; "default" is what transformers chooses for the model."""

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


def lines(rows: list[Stored]) -> list[str]:
    """Each goal and dtype with the worst row: asked, found, where."""
    rows = [row for row in rows if row["suite"] == SUITE]
    said = []
    for goal in GOALS:
        for dtype, asked in zip(_DTYPES, goal.asked, strict=True):
            head = f"{goal.text}, {dtype}: asked {'<=' if goal.at_most else '>='} {asked:g}"
            found = sorted(goal.found(rows, dtype), key=lambda one: one[0], reverse=goal.at_most)
            if not found:
                said.append(f"{head}, not measured")
                continue
            worst, where = found[0]
            met = worst <= asked if goal.at_most else worst >= asked
            shape = f"{where['shape']['layers']} layers, weights {where['shape']['weights']}"
            said.append(f"{head}, found {worst:.2f} ({shape}), {'met' if met else 'not met'}")
    return said


if __name__ == "__main__":
    print("\n".join(lines(report.load(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS))))
