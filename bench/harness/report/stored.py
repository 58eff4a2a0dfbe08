"""Stored rows: reading them, and grouping them by machine and case."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Stored = dict[str, Any]


def load(folder: Path) -> list[Stored]:
    """The rows of the folder's *.jsonl files; of repeated measurements only the newest is returned."""
    rows = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    return list({(*case_of(row), row["provider"], row["output"]): row for row in rows}.values())


def machine_of(row: Stored) -> str:
    """GPU, CPU, cores, threads and instruction set."""
    machine = row["machine"]
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    return f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['isa']}"


def shape_of(row: Stored) -> str:
    """The shape in one line: `batch 1, seqlen 4096, ...`."""
    return ", ".join(f"{name} {value}" for name, value in row["shape"].items())


def case_of(row: Stored) -> tuple[str, ...]:
    """Machine, suite, op, direction, dtype, shape."""
    return machine_of(row), row["suite"], row["op"], row["direction"], row["dtype"], shape_of(row)


def commit_of(row: Stored) -> str:
    """Short commit; `+ changes` if the working tree differed from it."""
    return row["commit"][:9] + (" + changes" if row["dirty"] else "")


def versions_of(row: Stored) -> str:
    """Versions of lckernels, torch and Python."""
    versions = row["versions"]
    return f"lckernels {versions['lckernels']}, torch {versions['torch']}, Python {versions['python']}"


def groups(rows: Iterable[Stored], length: int) -> dict[tuple[str, ...], list[Stored]]:
    """Rows by the first `length` parts of their case; the group measured last comes first."""
    found: dict[tuple[str, ...], list[Stored]] = defaultdict(list)
    for row in rows:
        found[case_of(row)[:length]].append(row)
    return dict(sorted(found.items(), key=lambda group: newest(group[1]), reverse=True))


def newest(rows: Iterable[Stored]) -> str:
    """The date and time of the latest row."""
    return max(row["date"] for row in rows)


def days(rows: Iterable[Stored]) -> str:
    """The day, or the first and the last day, on which the rows were measured."""
    found = sorted({row["date"][:10] for row in rows})
    return found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"
