"""Translations and summaries, as text with a report on stderr, and as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text as Line

from lckernels.cli.console import print_remark, printable, stdout
from lckernels.cli.reports.places import file_json, reading
from lckernels.flops import format_count
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.rewriting.rewritten import Part, Rewritten


def print_rewritten(found: Sequence[tuple[Text, "Rewritten"]], quiet: bool) -> None:
    """Prints what was written, and on stderr what was read and each part that may be incomplete."""
    for text, one in found:
        if len(found) > 1:
            stdout.print(Line(printable(str(text.path)), style="bold"))
        written = printable(one.text)
        stdout.print(Line(written), end="" if written.endswith("\n") else "\n")
        if not quiet:
            parts = f"{format_count(len(one.parts), 'part')}, {len(one.missing):,} may be incomplete"
            print_remark(f"{text.path}: {reading(one.coverage, one.num_tokens)}; {parts}")
            for part in one.missing:
                print_remark(
                    f"  line {text.line(part.start):,}: {part.problem}: {' '.join(part.source.split())}"
                )


def as_json(task: str, model: str, found: Sequence[tuple[Text, "Rewritten"]]) -> dict[str, Any]:
    """The object that `rewrite --json` prints, without the page."""
    files = [
        {
            **file_json(text, one.coverage, one.num_tokens),
            "text": one.text,
            "parts": [_part(text, part) for part in one.parts],
        }
        for text, one in found
    ]
    return {"task": task, "model": model, "files": files}


def _part(text: Text, part: "Part") -> dict[str, Any]:
    return {
        "start": part.start + text.content_start,
        "end": part.end + text.content_start,
        "source": part.source,
        "text": part.text,
        "problem": part.problem or None,
        "is_cut": part.is_cut,
    }
