"""The table of docs/training.md: each task with each method of tuning, as test_trainer_matrix.py finds it."""

import textwrap
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from helpers.trainer_runs import IN_PART, METHODS, NOT_POSSIBLE, TASKS

YES, PART, NO, FAILED = "yes", "in part", "-", "**no**"
COMMAND = 'pytest tests/training/test_trainer_matrix.py -m "" --trainer-table docs/training.md'
HEADING = "### Each task with each method"
_CHECKS = (
    "Yes: trained and evaluated on documents of 12 to 250 words with a model of 32 positions; exactly the "
    "method's parameters change; a run that continues from a checkpoint has the bits of an unbroken one on a "
    "CPU; what is saved is loaded by PEFT or transformers alone, with the same logits."
)


@dataclass
class Table:
    """The results of the cases; `results[task][method]`: YES, PART, NO or FAILED."""

    results: dict[str, dict[str, str]] = field(default_factory=dict)

    def write(self, docs: Path) -> None:
        """Replaces the section of the page at `docs`."""
        before, heading, rest = docs.read_text().partition(f"{HEADING}\n")
        assert heading, f"{docs} has no line {HEADING!r}"
        end = rest.find("\n#")
        docs.write_text(f"{before}{heading}\n{self.markdown()}{rest[end:] if end >= 0 else ''}")

    def markdown(self) -> str:
        """The section without its heading."""
        import peft
        import torch
        import transformers

        versions = (
            f"transformers {transformers.__version__}, PEFT {peft.__version__}, torch {torch.__version__}"
        )
        lines = [f"| task | {' | '.join(METHODS)} |", f"|{'---|' * (1 + len(METHODS))}"]
        for task, results in self.results.items():
            lines.append(f"| {task} | {' | '.join(results.get(method, FAILED) for method in METHODS)} |")
        lines += ["", "| in part, or not | why |", "|---|---|"]
        reasons: dict[tuple[str, str], list[str]] = {}
        for (task, method), reason in [*IN_PART.items(), *((x, why) for x, (_, why) in NOT_POSSIBLE.items())]:
            reasons.setdefault((method, reason), []).append(task)
        for (method, reason), tasks in reasons.items():
            where = "" if len(tasks) == len(TASKS) else f": {', '.join(tasks)}"
            lines.append(f"| {method}{where} | {reason} |")
        head = [*textwrap.wrap(_CHECKS, 128), f"Written by `{COMMAND}`", f"({versions})."]
        return "\n".join([*head, "", *lines, ""])


def needed() -> list[tuple[str, str]]:
    """Every case of the table."""
    return [(task, method) for task in TASKS for method in METHODS]


def expected(task: str, method: str) -> str:
    """What the table has for a case in which nothing failed."""
    return NO if (task, method) in NOT_POSSIBLE else PART if (task, method) in IN_PART else YES


def missing_cases(ran: Collection[tuple[str, str]]) -> list[str]:
    """The cases that a run lacks."""
    return [", ".join(case) for case in needed() if case not in ran]


def rows(page: str) -> dict[tuple[str, str], str]:
    """What the table in the page has for each case."""
    section = page.partition(f"{HEADING}\n")[2]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    marks = {row[0]: row[1:] for row in table if row[0] in TASKS}
    return {(task, method): mark for task in marks for method, mark in zip(METHODS, marks[task], strict=True)}
