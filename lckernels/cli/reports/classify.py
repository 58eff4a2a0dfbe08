"""The classes of texts, as tables and as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text as Line

from lckernels.cli.console import printable, stdout
from lckernels.cli.reports.places import file_json, reading
from lckernels.cli.reports.rich_tables import print_table
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.classification.classes import Classes


def print_classes(found: Sequence[tuple[Text, "Classes"]], quiet: bool) -> None:
    """Prints a table for each text, the highest score first; chosen classes have a mark."""
    for text, classes in found:
        stdout.print(Line(printable(str(text.path)), style="bold"))
        rows = [
            (one.label, f"{one.score:.4g}", "chosen" if one.label in classes.chosen else "")
            for one in classes.labels
        ]
        print_table(("label", "score", ""), rows, wide=0)
        if not quiet:
            stdout.print(f"{reading(classes.coverage, classes.num_tokens)}; {classes.kind}")
        stdout.print()


def as_json(model: str, found: Sequence[tuple[Text, "Classes"]]) -> dict[str, Any]:
    """The object that `classify --json` prints, without the page."""
    files = [
        {
            **file_json(text, classes.coverage, classes.num_tokens),
            "kind": classes.kind,
            "chosen": classes.chosen,
            "value": classes.value,
            "labels": [{"label": one.label, "score": one.score} for one in classes.labels],
        }
        for text, classes in found
    ]
    return {"model": model, "files": files}
