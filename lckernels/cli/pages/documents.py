"""A text on a page: what was read, its scores, a curve along it, and its characters with highlights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.curve import curve_figure
from lckernels.cli.pages.elements import element, escaped, facts, page
from lckernels.cli.pages.marks import Mark, text_blocks
from lckernels.cli.pages.tables import swatch
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.results import Curve

_BUTTONS = "".join(
    element("button", name, type="button", hidden="", title=title, **{"data-step": step})
    for name, title, step in (
        ("previous", "previous highlight, key p", -1),
        ("next", "next highlight, key n", 1),
    )
)


def document(
    prefix: str,
    text: Text,
    about: Sequence[str],
    table: str,
    *,
    curve: "Curve | None" = None,
    marks: Sequence[Mark] = (),
    legend: Sequence[tuple[str, int]] = (),
) -> str:
    """The section of one text.

    Args:
        prefix: of the ids of its marks and rows.
        text: the text, all of whose characters are shown.
        about: facts, as HTML.
        table: its scores, as HTML.
        curve: a number along the text. Default: none.
        marks: parts of the text that are highlighted. Default: none.
        legend: names and styles of the marks.
    """
    starts = sorted(mark.start for mark in marks)
    parts = [
        element("h2", escaped(str(text.path))),
        facts(list(about)),
        table,
        "" if curve is None else curve_figure(curve, len(text.content), starts),
    ]
    if marks:
        items = "".join(element("li", swatch(name, style)) for name, style in legend)
        parts.append(element("ul", f"{items}<li>{_BUTTONS}</li>", **{"class": "legend"}))
    parts.append(element("div", text_blocks(text.content, marks, prefix), dir="auto", **{"class": "text"}))
    return element("section", "\n".join(filter(None, parts)), **{"class": "doc", "data-d": prefix})


def documents_page(title: str, model: str, sections: Sequence[str], about: Sequence[str] = ()) -> str:
    """A page with a title, facts (HTML) about the whole, and the sections."""
    top = element("h1", escaped(title)) + facts([f"model {escaped(model)}", *about])
    return page(title, "\n".join([top, *sections]))
