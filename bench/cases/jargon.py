"""The entries of the bundled Jargon File, and queries: a headword, and passages that do not contain it."""

import re
from dataclasses import dataclass

from bench.cases import book

TARGET_WORDS = 8  # the fewest of a target
_HEAD = re.compile(r"^   :([^\n]+?):(?= |$)", re.MULTILINE)
_END = re.compile(r"\n\n\s*Part\W+III")  # behind the last entry
_LETTER = re.compile(r"\n\n\s*\S\n\n")  # the heading of a letter, before a list of its entries
_CARTOON = re.compile(r"\s*\([^()]* cartoon (?:in|was)\b")  # a note on their order
_PARAGRAPH = re.compile(r"(?:^[^\n]*\S[^\n]*(?:\n|\Z))+", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One entry of the lexicon.

    Attributes:
        headword: as it is printed between colons.
        passages: (start, end) of its paragraphs, characters of the book; the first one has the headword.
    """

    headword: str
    passages: list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Lexicon:
    """A part of the book, as a task of search.

    Attributes:
        text: of the part, from the first entry to the last.
        entries: its entries; their passages are characters of `text`.
    """

    text: str
    entries: list[Entry]

    @property
    def passages(self) -> list[tuple[int, int]]:
        """(start, end) of the passages of all entries, in order."""
        return [passage for entry in self.entries for passage in entry.passages]

    def queries(self) -> list[tuple[str, list[int], list[int]]]:
        """Headword, targets and candidates of each query, as indexes of `passages`.

        Candidates are the passages that do not contain the headword, in capitals or not: a search for the
        word cannot find them. Targets are those of the headword's own entry, of at least TARGET_WORDS words.
        Entries without a target make no query.
        """
        plain = [plain_text(self.text[start:end]).lower() for start, end in self.passages]
        found, first = [], 0
        for entry in self.entries:
            own = range(first, first + len(entry.passages))
            first += len(entry.passages)
            word = entry.headword.lower()
            targets = [i for i in own if word not in plain[i] and len(plain[i].split()) >= TARGET_WORDS]
            if targets:
                candidates = [i for i, passage in enumerate(plain) if word not in passage]
                found.append((entry.headword, targets, candidates))
        return found


def plain_text(text: str) -> str:
    """The text in one line."""
    return " ".join(text.split())


def lexicon(num_entries: int | None = None) -> Lexicon:
    """The first `num_entries` entries of the book; all by default."""
    text = book.PATH.read_text(encoding="utf-8")
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [_END.search(text, heads[-1].start()).start()]
    pairs = list(zip(heads, ends, strict=True))[:num_entries]
    first, last = pairs[0][0].start(), pairs[-1][1]
    entries = [Entry(plain_text(head[1]), _passages(text, head.start(), end, first)) for head, end in pairs]
    return Lexicon(text[first:last], entries)


def _passages(text: str, start: int, end: int, origin: int) -> list[tuple[int, int]]:
    letter = _LETTER.search(text, start, end)
    paragraphs = [
        (start + found.start() - origin, start + found.end() - origin)
        for found in _PARAGRAPH.finditer(text[start : letter.start() + 1 if letter else end])
    ]
    paragraphs = [(a, b) for a, b in paragraphs if not _CARTOON.match(text, origin + a, origin + b)]
    # The line with the headword is part of the first paragraph.
    return [(paragraphs[0][0], paragraphs[min(1, len(paragraphs) - 1)][1]), *paragraphs[2:]]
