"""Rows of accuracy by the place of the evidence, and their tables in Markdown."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.long_tasks.tasks import TASKS, Task

BINS = 8
FILE = "long_tasks.jsonl"


def binned(found: dict[str, list[float]], bins: int = BINS) -> dict[str, Any]:
    """What a row has of the answers that `train.evaluate` returned.

    Returns:
        "accuracy", overall; "by_place", of each of `bins` equal parts of the document, None where no evidence
        begins; "counts", of each part; "unseen", of the evidence that the scores cannot depend on, None if
        there is none; "num_unseen".
    """
    place, correct = found["place"], found["correct"]
    parts: list[list[float]] = [[] for _ in range(bins)]
    for at, right in zip(place, correct, strict=True):
        parts[min(int(at * bins), bins - 1)].append(right)
    unseen = [right for right, seen in zip(correct, found["seen"], strict=True) if not seen]
    return {
        "accuracy": _mean(correct),
        "by_place": [_mean(part) for part in parts],
        "counts": [len(part) for part in parts],
        "unseen": _mean(unseen),
        "num_unseen": len(unseen),
    }


def append(row: dict[str, Any], folder: Path) -> None:
    """Appends the row to `FILE` in the folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of `FILE` in the folder, the newest of each task and way."""
    lines = (folder / FILE).read_text(encoding="utf-8").splitlines()
    newest = {(row["task"], row["way"]): row for row in map(json.loads, lines)}
    return list(newest.values())


def markdown(rows: Iterable[dict[str, Any]]) -> str:
    """One table per task, in the order of `TASKS`: accuracy in percent by the place of the evidence.

    Its ways are in the task's order; a row has accuracy overall, in each part of the
    document, and of the evidence that it cannot see.
    """
    by_task: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    return "\n".join(_table(TASKS[name], by_task[name]) for name in TASKS if name in by_task)


def _table(task: Task, rows: list[dict[str, Any]]) -> str:
    order = [way.name for way in task.ways]
    rows = sorted(rows, key=lambda row: order.index(row["way"]))
    length = rows[0]["length"]
    used = [i for i in range(len(rows[0]["counts"])) if rows[0]["counts"][i]]
    used = used if len(used) > 1 else []
    step = length // len(rows[0]["counts"])
    heads = ["way", "all", *(f"{i * step:,}" for i in used), "unseen evidence"]
    lines = [
        f"**{task.title}** (`{task.name}`): {length:,} tokens, chance {100 * task.chance:.3g} %.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
    ]
    for row in rows:
        cells = [row["accuracy"], *(row["by_place"][i] for i in used), row["unseen"]]
        lines.append(f"| {' | '.join([row['way'], *map(_percent, cells)])} |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f}"
