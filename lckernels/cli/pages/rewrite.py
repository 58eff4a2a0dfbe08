"""The page of the command rewrite: each part of the source beside what was written for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lckernels.cli.pages.documents import documents_page
from lckernels.cli.pages.elements import element, escaped, facts, reading_fact
from lckernels.flops import format_count
from lckernels.text_files import Text

if TYPE_CHECKING:
    from lckernels.tasks.rewriting.rewritten import Rewritten


def rewrite_page(task: str, model: str, found: Sequence[tuple[Text, "Rewritten"]]) -> str:
    """Source and result of each text, side by side."""
    sections = [_section(*one) for one in found]
    title = f"{task}: {found[0][0].path.name if len(found) == 1 else format_count(len(found), 'text')}"
    return documents_page(title, model, sections)


def _section(text: Text, found: "Rewritten") -> str:
    rows, last = [_row("source", "result", "pair head")], 0
    for part in found.parts:
        copied, _, marker = text.content[last : part.start].rpartition("\n")
        if copied.strip():
            rows.append(_row(escaped(copied.strip("\n")), escaped(copied.strip("\n")), "pair gap copied"))
        marker = escaped(marker) if marker.strip() else ""
        kind = "pair gap" if last and "\n" in text.content[last : part.start] else "pair"
        kind = f"{kind} missing" if part.problem else kind
        source = escaped(text.content[part.start : part.end])
        problem = element("span", escaped(f" ({part.problem})"), **{"class": "short"}) if part.problem else ""
        rows.append(_row(marker + source, marker + escaped(part.text) + problem, kind))
        last = part.end
    rest = escaped(text.content[last:].strip("\n"))
    if rest.strip():
        copied = found.text.endswith(text.content[last:])
        rows.append(_row(rest, rest if copied else "", f"pair gap {'copied' if copied else 'missing'}"))
    about = [reading_fact(found.coverage, found.num_tokens), format_count(len(found.parts), "part")]
    if found.missing:
        about.append(element("span", f"{len(found.missing):,} may be incomplete", **{"class": "short"}))
    parts = [
        element("h2", escaped(str(text.path))),
        facts(about),
        element("div", "\n".join(rows), **{"class": "pairs"}),
    ]
    return element("section", "\n".join(parts), **{"class": "doc"})


def _row(source: str, result: str, classes: str) -> str:
    cells = element("div", source, dir="auto") + element("div", result, dir="auto")
    return element("div", cells, **{"class": classes})
