"""The passages that a search found, as lines and as JSON."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text as Line
from torch import Tensor

from lckernels.cli.console import printable, stdout
from lckernels.cli.reports import states
from lckernels.flops import format_count
from lckernels.passages import Passages
from lckernels.text_files import Text


@dataclass(frozen=True, eq=False)
class Found:
    """The passages of one text with their scores.

    Attributes:
        text: the text.
        passages: its passages.
        scores: (num_passages,) float32, the cosine of each to the question.
        facts: metadata of the text's states.
        path: where the states are saved; None if they are not.
        reused: whether they are from that file.
    """

    text: Text
    passages: Passages
    scores: Tensor
    facts: Mapping[str, str]
    path: Path | None
    reused: bool

    def best(self, count: int) -> list[tuple[float, int]]:
        """(score, passage) of the best passages, the best first."""
        best = self.scores.topk(min(count, len(self.passages)))
        return list(zip(best.values.tolist(), best.indices.tolist(), strict=True))


def rank(found: list[Found], count: int) -> list[tuple[Found, int]]:
    """The best passages of all texts, the best first; of equal ones those of the earlier text."""
    all_best = [(score, one, passage) for one in found for score, passage in one.best(count)]
    all_best.sort(key=lambda item: -item[0])
    return [(one, passage) for _, one, passage in all_best[:count]]


def print_passages(ranked: list[tuple[Found, int]], with_names: bool) -> None:
    """Prints rank, score and position of each passage, then its lines as they are in the text.

    Args:
        ranked: the passages, the best first.
        with_names: whether to print the file's name.
    """
    for number, (found, passage) in enumerate(ranked, start=1):
        text, (start, end) = found.text, found.passages.chars[passage].tolist()
        head = Line(f"{number:>2}  ", style="bold")
        head.append(f"score {found.scores[passage]:.3f}", style="bold green")
        where = f"   {text.percent(start):.1f} % of the text, line {text.line(start):,}"
        head.append(f"{where}, character {start + text.content_start:,}", style="cyan")
        if with_names:
            head.append(printable(f"   {text.path}"), style="bold")
        stdout.print(head)
        stdout.print(Line(textwrap.indent(printable(text.lines(start, end)), "    ")))
        stdout.print()


def print_figures(found: list[Found], ranked: list[tuple[Found, int]]) -> None:
    """Prints the figures of each text's encoding, then how many passages there are."""
    for one in found:
        if len(found) > 1:
            stdout.print(Line(printable(str(one.text.path)), style="bold"))
        for line in states.lines(one.facts, one.reused):
            stdout.print(line)
    total = sum(len(one.passages) for one in found)
    stdout.print(f"{format_count(total, 'passage')}, {len(ranked)} printed")


def as_json(found: list[Found], ranked: list[tuple[Found, int]]) -> dict[str, Any]:
    """The keys `files` and `passages` of `search --json`."""
    files = [
        {**states.as_json(one.text, one.facts, one.path, one.reused), "passages": len(one.passages)}
        for one in found
    ]
    return {"files": files, "passages": [_passage(n, *one) for n, one in enumerate(ranked, start=1)]}


def _passage(number: int, found: Found, passage: int) -> dict[str, Any]:
    text, (start, end) = found.text, found.passages.chars[passage].tolist()
    return {
        "rank": number,
        "score": float(found.scores[passage]),
        "file": str(text.path),
        "start": start + text.content_start,
        "end": end + text.content_start,
        "line": text.line(start),
        "percent": text.percent(start),
        "text": text.content[start:end],
    }
