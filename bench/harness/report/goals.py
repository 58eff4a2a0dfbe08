"""Goals: numbers to reach, and a table of what the rows show, the worst case first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.harness.report import tables
from bench.harness.report.stored import Stored, shape_of

Found = Iterator[tuple[float, Stored]]  # a measured number, and the row that it is from
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Goal:
    """A number to reach, per dtype.

    Attributes:
        text: What is measured, as the table shows it.
        targets: Of fp32 and bf16; None for no goal.
        found: Returns the measured numbers of a dtype from the rows.
        at_most: Whether the number must not exceed the target; by default it must not be below.
    """

    text: str
    targets: tuple[float | None, float | None]
    found: Callable[[list[Stored], str], Found]
    at_most: bool = False


def table(rows: list[Stored], goals: Sequence[Goal]) -> list[str]:
    """Lines of a Markdown table: each goal and dtype with the worst row of one machine."""
    cells = [["goal", "dtype", "target", "worst", "best", "rows", "met", "worst at"]]
    for goal in goals:
        for dtype, target in zip(DTYPES, goal.targets, strict=True):
            if target is None:
                continue
            found = sorted(goal.found(rows, dtype), key=lambda one: one[0], reverse=goal.at_most)
            sign = "<=" if goal.at_most else ">="
            measured = ["not measured", "", "0", "", ""]
            if found:
                (worst, where), best = found[0], found[-1][0]
                met = worst <= target if goal.at_most else worst >= target
                measured = [f"{worst:.2f}", f"{best:.2f}", str(len(found)), "yes" if met else "no"]
                day = f" ({where['date'][:10]})" if "date" in where else ""
                measured.append(f"{where['direction']}, {shape_of(where)}{day}")
            cells.append([goal.text, dtype, f"{sign} {target:g}", *measured])
    return tables.lines(cells)
