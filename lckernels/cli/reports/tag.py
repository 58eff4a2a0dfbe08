"""The entities of texts, as tables and as JSON."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text as Line

from lckernels.cli.console import printable, stdout
from lckernels.cli.reports.places import file_json, reading, span_json
from lckernels.cli.reports.rich_tables import print_table
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.tagging.tag import Tags


def print_tags(found: Sequence[tuple[Text, "Tags"]], top: int, quiet: bool) -> None:
    """Prints a table for each text with its first `top` entities, then how many it has of each label."""
    for text, tags in found:
        stdout.print(Line(printable(str(text.path)), style="bold"))
        rows = [
            (
                one.label,
                one.text,
                f"{one.score:.3f}",
                f"{text.line(one.start):,}",
                f"{text.percent(one.start):.1f} %",
            )
            for one in tags.entities[:top]
        ]
        print_table(("label", "entity", "score", "line", "percent"), rows, wide=1)
        hidden = len(tags.entities) - len(rows)
        if hidden:
            stdout.print(f"{hidden:,} more, in --json and in a --html PAGE")
        counts = Counter(one.label for one in tags.entities)
        named = ", ".join(f"{count:,} {label}" for label, count in counts.most_common()) or "no entities"
        stdout.print(printable(named))
        if not quiet:
            stdout.print(f"{reading(tags.coverage, tags.num_tokens)}; labels of scheme {tags.scheme}")
        stdout.print()


def as_json(model: str, found: Sequence[tuple[Text, "Tags"]]) -> dict[str, Any]:
    """The object that `tag --json` prints, without the page."""
    files = [
        {
            **file_json(text, tags.coverage, tags.num_tokens),
            "scheme": tags.scheme,
            "entities": [{"label": one.label, **span_json(text, one)} for one in tags.entities],
        }
        for text, tags in found
    ]
    return {"model": model, "files": files}
