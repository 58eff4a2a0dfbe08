"""Tables of scores, whose rows have links to the highlights in the text."""

from collections.abc import Sequence

from lckernels.cli.pages.elements import attributes, element, escaped
from lckernels.cli.pages.marks import style_classes
from lckernels.flops import format_count

ROWS = 200  # of a table; the rows behind them are in tables that are closed at first


def bar(share: float) -> str:
    """A bar for a number from 0 to 1; one outside is drawn as the nearer end."""
    width = round(100 * min(max(share, 0.0), 1.0), 1) if share == share else 0
    rect = f"<rect{attributes({'width': width, 'height': 10})}></rect>"
    return element(
        "svg", rect, viewBox="0 0 100 10", preserveAspectRatio="none",
        **{"class": "bar", "aria-hidden": "true"},
    )  # fmt: skip


def swatch(label: str, style: int) -> str:
    """A label as it is marked in the text."""
    return element("mark", escaped(label), **{"class": f"{style_classes(style)} e0"})


def link(prefix: str, number: int, text: str) -> str:
    """A link to a mark of the text."""
    return element("a", escaped(text), href=f"#m{prefix}-{number}")


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    noun: str,
    prefix: str | None = None,
    numeric: int = 0,
) -> str:
    """A table of cells given as HTML, all of them.

    Args:
        heads: the names of the columns.
        rows: of cells.
        noun: what a row is, for the tables behind the first.
        prefix: of the ids of rows, `r{prefix}-{n}`, which belong to marks. Default: none.
        numeric: how many of the last columns are numbers.
    """
    parts = []
    head = element("tr", "".join(element("th", escaped(name)) for name in heads))
    plain = len(heads) - numeric
    for first in range(0, len(rows), ROWS):
        part = rows[first : first + ROWS]
        lines = []
        for number, cells in enumerate(part, start=first):
            kinds = (None if column < plain else "number" for column in range(len(cells)))
            content = "".join(
                element("td", cell, **{"class": kind}) for cell, kind in zip(cells, kinds, strict=True)
            )
            lines.append(element("tr", content, id=None if prefix is None else f"r{prefix}-{number}"))
        body = element("table", element("thead", head) + element("tbody", "".join(lines)))
        if first:
            title = f"{noun} {first + 1:,} to {first + len(part):,} of {format_count(len(rows), noun)}"
            body = f"<details>{element('summary', escaped(title))}{body}</details>"
        parts.append(body)
    return element("div", "\n".join(parts), **{"class": "scores"})
