"""The page of the command tag."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.documents import document, documents_page
from lckernels.cli.pages.elements import escaped, reading_fact
from lckernels.cli.pages.marks import Mark
from lckernels.cli.pages.tables import bar, link, swatch, table
from lckernels.flops import format_count
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.tagging.tag import Tags

_HEADS = ("label", "entity", "score", "line", "percent")


def tag_page(model: str, found: Sequence[tuple[Text, "Tags"]]) -> str:
    """The entities of each text; a label has the same colour in all of them."""
    labels = sorted({one.label for _, tags in found for one in tags.entities})
    styles = {label: style for style, label in enumerate(labels)}
    sections = [_section(str(number), *one, styles) for number, one in enumerate(found)]
    title = f"Entities of {found[0][0].path.name if len(found) == 1 else format_count(len(found), 'text')}"
    return documents_page(title, model, sections)


def _section(prefix: str, text: Text, found: "Tags", styles: Mapping[str, int]) -> str:
    rows, marks = [], []
    for number, one in enumerate(found.entities):
        style = styles[one.label]
        rows.append((
            swatch(one.label, style),
            link(prefix, number, one.text),
            f"{bar(one.score)}{one.score:.3f}",
            f"{text.line(one.start):,}",
            f"{text.percent(one.start):.1f} %",
        ))  # fmt: skip
        marks.append(Mark(one.start, one.end, one.label, style, f"{one.label}, score {one.score:.3f}"))
    about = [
        reading_fact(found.coverage, found.num_tokens),
        f"scheme {escaped(found.scheme)}",
        format_count(len(rows), "highlight"),
    ]
    counts = Counter(one.label for one in found.entities)
    legend = [(f"{label} {counts[label]:,}", style) for label, style in styles.items() if counts[label]]
    scores = table(_HEADS, rows, "row", prefix, numeric=3)
    return document(prefix, text, about, scores, curve=found.curve, marks=marks, legend=legend)
