"""Texts by their relevance to a query, as a table and as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lckernels.cli.reports.places import file_json, percent
from lckernels.cli.reports.rich_tables import print_table
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.ranking.rank import Ranked


def print_ranked(found: Sequence[tuple[Text, "Ranked"]], quiet: bool) -> None:
    """Prints the texts, the best first; with `quiet` without what was read of them."""
    heads, rows = ["rank", "file", "score"], []
    for number, (text, one) in enumerate(found, start=1):
        row = [str(number), str(text.path), f"{one.score:.4g}"]
        rows.append(row if quiet else [*row, f"{one.num_tokens:,}", percent(one.coverage)])
    print_table(heads if quiet else [*heads, "tokens", "read"], rows, wide=1)


def as_json(query: str, model: str, found: Sequence[tuple[Text, "Ranked"]]) -> dict[str, Any]:
    """The object that `rank --json` prints, without the page."""
    files = [
        {"rank": number, "score": one.score, **file_json(text, one.coverage, one.num_tokens)}
        for number, (text, one) in enumerate(found, start=1)
    ]
    return {"query": query, "model": model, "files": files}
