"""The layout of a text: its paragraphs and list items; what is between them is copied as it is."""

# ruff: noqa: RUF001 (Chinese punctuation)

import re
import unicodedata
from dataclasses import dataclass

_SPACE = "[ \\t\\u3000]"
_CHINESE_NUMBER = "[一二三四五六七八九十百]{1,4}"
_MARKER = re.compile(
    f"(?:(?:[-*+>•◦▪‣·●○■–—]|#{{1,6}}|\\d{{1,3}}[.)]|[A-Za-z]\\)|\\((?:\\d{{1,3}}|[A-Za-z]|[ivx]{{1,4}})\\))"
    f"{_SPACE}+"
    f"|\\d{{1,3}}[.．](?=[\u3400-\u9fff]){_SPACE}*"
    f"|(?:(?:\\d{{1,3}}|{_CHINESE_NUMBER})、|（(?:\\d{{1,3}}|{_CHINESE_NUMBER})）|[①-⑳]){_SPACE}*)+"
)
_LINE_ENDS = "\\n\\r\\x0b\\x0c\\x1c-\\x1e\\x85\\u2028\\u2029"
_BREAK = re.compile(f"[{_LINE_ENDS}]")
_SENTENCE_END = re.compile("[.!?:;…。！？：；][\"'”’»)\\]）」』】]*$")
_UNSPACED = re.compile("[\u2e80-\u303f\u3040-\u30ff\u31c0-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff65]")
_FIRST_WORD = re.compile(f"{_UNSPACED.pattern}{{1,2}}|\\S+")  # two: a full stop begins no line
_LEAST_WIDTH = 40  # columns of a line that is broken since it is full


@dataclass(frozen=True)
class Unit:
    """A paragraph or a list item, without indentation, marker and the white space at its end.

    Attributes:
        start: its first character in the text.
        end: the offset behind its last character.
    """

    start: int
    end: int


@dataclass(frozen=True)
class _Line:
    """A line: its content is `text[start:end]`, after `indent` columns and perhaps a marker."""

    start: int
    end: int
    indent: int
    has_marker: bool
    width: int


def find_units(text: str, wrapped: bool | None = None) -> list[Unit]:
    """The paragraphs and list items of a text, in order.

    A line without a letter, such as a rule or a page number, is part of none. An indentation deeper than that
    of the line before begins a paragraph.

    Args:
        text: the characters.
        wrapped: whether a line that follows another one continues its paragraph. None: where the line before
            is full (at least 40 columns, and the next word would make it wider than the widest line of the
            block) and does not end as a sentence does. A Chinese character has two columns.
    """
    units: list[Unit] = []
    for block in _blocks(text):
        widest = max(line.width for line in block)
        for before, line in zip((None, *block), block, strict=False):
            if before is not None and _continues(text, before, line, widest, wrapped):
                units[-1] = Unit(units[-1].start, line.end)
            else:
                units.append(Unit(line.start, line.end))
    return units


def flat(text: str) -> str:
    """The text on one line: a line break is a space, or nothing beside a Chinese character."""
    joined = ""
    for line in filter(None, map(str.strip, _BREAK.split(text))):
        joined += space_between(joined, line) + line
    return joined


def space_between(left: str, right: str) -> str:
    """What separates two sentences: a space, and nothing beside a Chinese or Japanese character."""
    if not left or not right or _UNSPACED.match(left[-1]) or _UNSPACED.match(right[0]):
        return ""
    return " "


def separator(text: str, left: tuple[int, int], right: tuple[int, int], written: tuple[str, str]) -> str:
    """What separates the translations of two parts of a unit.

    Args:
        text: that both are parts of.
        left: (start, end) of a part.
        right: that of the next one.
        written: the translation of each.

    Returns:
        What separates the parts, if that is no line break; between English and Chinese as `space_between`.
    """
    between = space_between(*written)
    if not between:
        return ""
    gap = text[left[1] : right[0]]
    if gap:
        return " " if _BREAK.search(gap) else gap
    return "" if space_between(text[slice(*left)], text[slice(*right)]) else " "


def _blocks(text: str) -> list[list[_Line]]:
    """The lines with letters, in groups of neighbours."""
    blocks: list[list[_Line]] = [[]]
    position = 0
    for whole in text.splitlines(keepends=True):
        line = _line(whole, position)
        position += len(whole)
        if line is not None:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


def _line(whole: str, position: int) -> _Line | None:
    """The line at a position of the text; None for one without a letter."""
    content = whole.strip()
    if not any(character.isalpha() for character in content):
        return None
    indent = whole[: len(whole) - len(whole.lstrip())]
    marker = _MARKER.match(content)
    skipped = 0 if marker is None or marker.end() == len(content) else marker.end()
    start = position + len(indent) + skipped
    end = position + len(indent) + len(content)
    return _Line(start, end, _width(indent.expandtabs()), skipped > 0, _width(indent.expandtabs() + content))


def _continues(text: str, before: _Line, line: _Line, widest: int, wrapped: bool | None) -> bool:
    """Whether a line continues the paragraph of the line before it."""
    if wrapped is False or line.has_marker or (line.indent > before.indent and not before.has_marker):
        return False
    if wrapped:
        return True
    if before.width < _LEAST_WIDTH or _SENTENCE_END.search(text, before.start, before.end):
        return False
    word = _FIRST_WORD.match(text, line.start)[0]
    space = len(space_between(text[before.end - 1], word))
    return before.width + space + _width(word) > widest


def _width(text: str) -> int:
    """Columns of a text in a fixed-width font."""
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)
