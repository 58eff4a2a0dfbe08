"""A text in HTML with parts of it marked: every character once, in blocks of lines."""

# ruff: noqa: RUF001 (Chinese punctuation)

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lckernels.cli.pages.elements import attributes, element, escaped

_BLOCK = 2_000  # characters of whole lines; a browser lays out the blocks that are visible
_LONGEST_LINE = 20_000  # characters of a line in one block
_BREAK = re.compile(r"[\s。！？，；.!?,;]")  # behind which a longer line is cut
_COLORS, _BORDERS = 8, 4  # of page.css


@dataclass(frozen=True)
class Mark:
    """A part of a text that is highlighted.

    Attributes:
        start: its first character.
        end: the offset behind its last character.
        label: a short text that is shown behind it.
        style: the number of its colour and border; equal numbers look alike.
        note: what is shown where the pointer is on it.
    """

    start: int
    end: int
    label: str
    style: int
    note: str


def style_classes(style: int) -> str:
    """The classes of page.css for a number of a style: eight colours, then the same with other borders."""
    return f"c{style % _COLORS} s{style // _COLORS % _BORDERS}"


def text_blocks(text: str, marks: Sequence[Mark] = (), prefix: str = "0") -> str:
    """The text as elements whose characters, in order, are those of the text.

    Marks may overlap, one within the other or not. Number n in `marks` has the id `m{prefix}-{n}`.
    """
    order = sorted(range(len(marks)), key=lambda n: (marks[n].start, -marks[n].end))
    waiting, active, parts = iter(order), [], []
    upcoming = next(waiting, None)
    for start, end, continued in _block_ranges(text):
        active = [n for n in active if marks[n].end > start]
        while upcoming is not None and marks[upcoming].start < end:
            active.append(upcoming)
            upcoming = next(waiting, None)
        content = "".join(_pieces(text, start, end, active, marks, prefix))
        name = "block continued" if continued else "block"
        parts.append(element("div", content, **{"class": name, "data-at": start}))
    return "\n".join(parts)


def _block_ranges(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether the start is within a line) of each block."""
    start, continued = 0, False
    while start < len(text):
        end = text.rfind("\n", start, start + _BLOCK) + 1 if len(text) - start > _BLOCK else len(text)
        end = end or text.find("\n", start, start + _LONGEST_LINE) + 1
        if not end and len(text) - start <= _LONGEST_LINE:
            end = len(text)
        if not end:
            limit = start + _LONGEST_LINE
            breaks = [match.end() for match in _BREAK.finditer(text, limit - _BLOCK, limit)]
            end = breaks[-1] if breaks else limit
        yield start, end, continued
        start, continued = end, text[end - 1] != "\n"


def _pieces(
    text: str, start: int, end: int, active: Iterable[int], marks: Sequence[Mark], prefix: str
) -> Iterator[str]:
    """The block from `start` to `end`, cut where a mark begins or ends."""
    cuts = {start, end}
    for n in active:
        cuts.update(cut for cut in (marks[n].start, marks[n].end) if start < cut < end)
    ordered = sorted(cuts)
    for first, last in pairwise(ordered):
        over = [n for n in active if marks[n].start <= first and last <= marks[n].end]
        inner = escaped(text[first:last])
        for depth, n in enumerate(reversed(over)):
            inner = _piece(inner, marks[n], n, prefix, min(depth, 3), first, last)
        yield inner


def _piece(inner: str, mark: Mark, n: int, prefix: str, depth: int, first: int, last: int) -> str:
    classes = f"{style_classes(mark.style)} e{depth}" + (" z" if last == mark.end else "")
    options = {"class": classes, "data-m": n, "data-at": mark.start, "title": mark.note}
    if first == mark.start:
        options["id"] = f"m{prefix}-{n}"
    if last == mark.end:
        options["data-l"] = mark.label
    return f"<mark{attributes(options)}>{inner}</mark>"
