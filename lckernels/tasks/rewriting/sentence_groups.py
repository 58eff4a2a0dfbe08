"""A text cut into groups of whole sentences, of at most so many tokens, within a paragraph or list item."""

# ruff: noqa: RUF001 (Chinese punctuation)

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from lckernels.sentences import sentence_boundaries
from lckernels.tasks.rewriting.layout import Unit, flat

Encode = Callable[[Sequence[str]], list[list[int]]]  # token ids of texts, without special tokens
_CLAUSE_END = re.compile("(?<=[,;:，、；：])(?=\\D)|(?<=[—–])|(?<=\\.\\.\\.)|(?<=…)")
_WORD_END = re.compile("(?<=\\s)(?=\\S)")


@dataclass(frozen=True)
class Group:
    """Sentences that are rewritten together.

    Attributes:
        unit: the number of their paragraph or list item.
        start: the first character.
        end: the offset behind the last character.
        source: the characters on one line.
        num_sentences: how many they are; 1 for a part of a sentence.
        ids: their tokens.
        context: tokens of the sentences before them, which are read and not rewritten.
        is_cut: whether this is a part of a sentence that has more tokens than a group.
    """

    unit: int
    start: int
    end: int
    source: str
    num_sentences: int
    ids: list[int]
    context: list[int] = field(default_factory=list)
    is_cut: bool = False


def group_sentences(
    text: str,
    units: Sequence[Unit],
    encode: Encode,
    room: int,
    *,
    language: str = "en",
    sentences_per_group: int | None = 1,
    context_sentences: int = 0,
) -> list[Group]:
    """The groups of a text, in order; each sentence is in exactly one.

    A sentence of more than `room` tokens is cut at punctuation between clauses, a clause between words, a
    word between characters.

    Args:
        text: the characters.
        units: paragraphs and list items; no group has sentences of two.
        encode: the tokens of texts.
        room: the most tokens of a group with its context.
        language: ISO 639 code for finding sentences.
        sentences_per_group: the most sentences of a group; None: as many as fit.
        context_sentences: sentences before a group that are its context; fewer where they do not fit.
    """
    sentences = list(_sentences(text, units, encode, room, language))
    groups: list[Group] = []
    begin = 0
    for end in _ends(sentences, room, sentences_per_group):
        group = _joined(text, sentences[begin:end], encode, room)
        context: list[int] = []
        for before in reversed(sentences[max(0, begin - context_sentences) : begin]):
            if len(before.ids) + len(context) + len(group.ids) > room:
                break
            context = before.ids + context
        groups.append(replace(group, context=context))
        begin = end
    return groups


def _sentences(text: str, units: Sequence[Unit], encode: Encode, room: int, language: str) -> Iterator[Group]:
    """One group per sentence, and per part of a longer one."""
    spans = [(number, *span) for number, unit in enumerate(units) for span in _spans(text, unit, language)]
    sources = [flat(text[start:end]) for _, start, end in spans]
    for (unit, start, end), source, ids in zip(spans, sources, encode(sources), strict=True):
        if len(ids) <= room:
            yield Group(unit, start, end, source, 1, ids)
            continue
        for first, last in _parts(text, start, end, encode, room):
            source = flat(text[first:last])
            yield Group(unit, first, last, source, 1, encode([source])[0], is_cut=True)


def _spans(text: str, unit: Unit, language: str) -> list[tuple[int, int]]:
    """The sentences of a unit as characters of the text, without white space at their ends."""
    cuts = [unit.start + cut for cut in sentence_boundaries(text[unit.start : unit.end], language)]
    return _stripped(text, [unit.start, *cuts, unit.end])


def _stripped(text: str, cuts: Sequence[int]) -> list[tuple[int, int]]:
    """The parts between cuts that are not blank, without white space at their ends."""
    parts = ((start, text[start:end]) for start, end in pairwise(cuts))
    return [
        (start + len(part) - len(part.lstrip()), start + len(part.rstrip()))
        for start, part in parts
        if part.strip()
    ]


def _ends(sentences: Sequence[Group], room: int, sentences_per_group: int | None) -> Iterator[int]:
    """The number of the first sentence behind each group."""
    begin, tokens = 0, 0
    for i, sentence in enumerate(sentences):
        if i > begin and (
            i - begin == sentences_per_group
            or sentence.unit != sentences[begin].unit
            or sentence.is_cut
            or sentences[i - 1].is_cut
            or tokens + len(sentence.ids) > room
        ):
            yield i
            begin, tokens = i, 0
        tokens += len(sentence.ids)
    if sentences:
        yield len(sentences)


def _joined(text: str, sentences: Sequence[Group], encode: Encode, room: int) -> Group:
    """Sentences of one unit as one group."""
    first, last = sentences[0], sentences[-1]
    if first is last:
        return first
    source = flat(text[first.start : last.end])
    ids = encode([source])[0]
    if len(ids) > room:  # joined texts seldom have more tokens than their sentences
        ids = [token for sentence in sentences for token in sentence.ids]
    return Group(first.unit, first.start, last.end, source, len(sentences), ids)


def _parts(text: str, start: int, end: int, encode: Encode, room: int) -> list[tuple[int, int]]:
    """A sentence as parts of at most `room` tokens each."""
    pieces = [(start, end)]
    for level in (_CLAUSE_END, _WORD_END, None):
        pieces = [part for piece in pieces for part in _finer(text, piece, level, encode, room)]
        if _fit(text, pieces, encode, room):
            break
    return pieces


def _finer(
    text: str, piece: tuple[int, int], level: re.Pattern[str] | None, encode: Encode, room: int
) -> list[tuple[int, int]]:
    """A piece of more than `room` tokens cut at one kind of place, with as many parts in each as fit."""
    if _fit(text, [piece], encode, room):
        return [piece]
    if level is None:
        return _equal_parts(text, piece, encode, room)
    cuts = [match.end() for match in level.finditer(text, *piece) if match.end() > piece[0]]
    parts = _stripped(text, [piece[0], *cuts, piece[1]])
    lengths = [len(ids) for ids in encode([flat(text[a:b]) for a, b in parts])]
    packed = [parts[0]]
    tokens = lengths[0]
    for (first, last), length in zip(parts[1:], lengths[1:], strict=True):
        if tokens + length <= room:
            packed[-1], tokens = (packed[-1][0], last), tokens + length
        else:
            packed.append((first, last))
            tokens = length
    return packed


def _equal_parts(text: str, piece: tuple[int, int], encode: Encode, room: int) -> list[tuple[int, int]]:
    """A piece as parts of equally many characters; no accent is apart from its letter."""
    start, end = piece
    count = 2
    while True:
        cuts = [start + (end - start) * i // count for i in range(count + 1)]
        for i, cut in enumerate(cuts[1:-1], 1):
            while cut > start and unicodedata.combining(text[cut]):
                cut -= 1
            cuts[i] = cut
        parts = _stripped(text, sorted(set(cuts)))
        if count >= end - start or _fit(text, parts, encode, room):
            return parts
        count *= 2


def _fit(text: str, parts: Sequence[tuple[int, int]], encode: Encode, room: int) -> bool:
    """Whether each part has at most `room` tokens."""
    return all(len(ids) <= room for ids in encode([flat(text[start:end]) for start, end in parts]))
