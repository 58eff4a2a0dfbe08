"""The page of the command classify."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.documents import document, documents_page
from lckernels.cli.pages.elements import element, escaped, reading_fact
from lckernels.cli.pages.tables import bar, table
from lckernels.flops import format_count
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.classification.classes import Classes


def classify_page(model: str, found: Sequence[tuple[Text, "Classes"]]) -> str:
    """The classes of each text, with bars."""
    sections = [_section(str(number), *one) for number, one in enumerate(found)]
    title = f"Classes of {found[0][0].path.name if len(found) == 1 else format_count(len(found), 'text')}"
    return documents_page(title, model, sections)


def _section(prefix: str, text: Text, found: "Classes") -> str:
    rows = []
    for one in found.labels:
        chosen = one.label in found.chosen
        name = escaped(one.label)
        name = element("span", f"{name} ✓", **{"class": "chosen"}, title="chosen") if chosen else name
        # The numbers of a regression have no scale for a bar.
        drawn = "" if found.kind == "regression" else bar(one.score)
        rows.append((name, f"{drawn}{one.score:.4g}"))
    about = [reading_fact(found.coverage, found.num_tokens), escaped(found.kind)]
    return document(
        prefix, text, about, table(("label", "score"), rows, "label", numeric=1), curve=found.curve
    )
