"""Translation of texts of any length by groups of whole sentences, with the layout kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from lckernels.checks import bad
from lckernels.progress import token_bar
from lckernels.tasks.rewriting.generators import Generator
from lckernels.tasks.rewriting.layout import Unit, find_units, separator
from lckernels.tasks.rewriting.rewritten import Output, Part, Rewritten, least_ratio, problem
from lckernels.tasks.rewriting.sentence_groups import Group, group_sentences
from lckernels.tasks.rewriting.source_rows import SourceRows
from lckernels.tasks.spans import num_characters

_LEAST_ROOM = 8  # tokens of a group, so that a character fits


@dataclass(frozen=True)
class Grouping:
    """How texts are cut into groups.

    Attributes:
        room: the most tokens of a group with its context.
        language: ISO 639 code for finding sentences.
        sentences_per_group: the most sentences of a group; None: as many as fit.
        context_sentences: sentences before a group that are read and not translated.
        wrapped: as in `find_units`.
        limit: the most tokens of a text that are read; None: all.
    """

    room: int
    language: str = "en"
    sentences_per_group: int | None = 1
    context_sentences: int = 0
    wrapped: bool | None = None
    limit: int | None = None


def translate(
    generator: Generator,
    rows: SourceRows,
    texts: Sequence[str],
    grouping: Grouping,
    *,
    batch: int = 8,
    progress: bool = False,
) -> list[Rewritten]:
    """The translations of texts.

    Args:
        generator: writes the output of rows.
        rows: makes rows of groups.
        texts: any texts.
        grouping: how they are cut.
        batch: the most groups of a call of the generator.
        progress: show a progress bar over the tokens.
    """
    laid_out = [find_units(text, grouping.wrapped) for text in texts]
    groups = [_groups(*pair, rows, grouping) for pair in zip(texts, laid_out, strict=True)]
    outputs = _outputs(generator, rows, [group for read, _ in groups for group in read], batch, progress)
    ratio = least_ratio([(len(group.ids), output.num_tokens) for group, output in outputs])
    remaining = iter(outputs)
    results = []
    for text, units, (read, is_whole) in zip(texts, laid_out, groups, strict=True):
        pairs = [next(remaining) for _ in read]
        parts = [_part(text, *pair, ratio, grouping.language) for pair in pairs]
        end = len(text) if is_whole else read[-1].end if read else units[0].start
        results.append(
            Rewritten(
                _assembled(text, units, read, parts, end),
                parts,
                _coverage(text, read, rows, end),
                sum(len(group.ids) for group in read),
            )
        )
    return results


def check_room(name: str, chunk_len: int, num_fixed: int) -> int:
    """The tokens of a row that are left for a text. Raises ValueError for too few."""
    if chunk_len - num_fixed < _LEAST_ROOM:
        least = num_fixed + _LEAST_ROOM
        hint = f"of which {num_fixed} are special tokens and prefix"
        raise bad(name, chunk_len, f"expected at least {least}, {hint}")
    return chunk_len - num_fixed


def _groups(
    text: str, units: Sequence[Unit], rows: SourceRows, grouping: Grouping
) -> tuple[list[Group], bool]:
    """The groups that are read, and whether they are all groups of the text."""
    room = grouping.room if grouping.limit is None else min(grouping.room, grouping.limit)
    found = group_sentences(
        text, units, rows.encode, room, language=grouping.language,
        sentences_per_group=grouping.sentences_per_group, context_sentences=grouping.context_sentences,
    )  # fmt: skip
    if grouping.limit is None:
        return found, True
    read, tokens = 0, 0
    while read < len(found) and tokens + len(found[read].ids) <= grouping.limit:
        tokens += len(found[read].ids)
        read += 1
    return found[:read], read == len(found)


def _outputs(
    generator: Generator, rows: SourceRows, groups: Sequence[Group], batch: int, progress: bool
) -> list[tuple[Group, Output]]:
    """Each group with its output; those of similar length share a call, the longest come first."""
    outputs = [Output("", 0, False)] * len(groups)
    order = sorted((i for i, group in enumerate(groups) if group.ids), key=lambda i: -len(groups[i].ids))
    with token_bar(sum(len(groups[i].ids) for i in order), "translation", progress) as bar:
        for begin in range(0, len(order), batch):
            part = order[begin : begin + batch]
            longest = len(groups[part[0]].ids)
            given = [rows.row(groups[i].ids, groups[i].context) for i in part]
            for i, output in zip(part, generator(given, 2 * longest + 32), strict=True):
                outputs[i] = output
            bar(sum(len(groups[i].ids) for i in part))
    return list(zip(groups, outputs, strict=True))


def _part(text: str, group: Group, output: Output, ratio: float, language: str) -> Part:
    found = problem(output, len(group.ids), group.num_sentences, ratio, language)
    return Part(group.start, group.end, text[group.start : group.end], output.text, found, group.is_cut)


def _assembled(
    text: str, units: Sequence[Unit], groups: Sequence[Group], parts: Sequence[Part], end: int
) -> str:
    """The text up to `end` in which the translations are in the places of their units."""
    written = [""] * len(units)
    before: Part | None = None
    for group, part in zip(groups, parts, strict=True):
        if before is not None and written[group.unit]:
            spans = (before.start, before.end), (part.start, part.end)
            written[group.unit] += separator(text, *spans, (written[group.unit], part.text))
        written[group.unit] += part.text
        before = part
    pieces, position = [], 0
    for unit, new in zip(units, written, strict=True):
        if unit.start >= end:
            break
        pieces += [text[position : unit.start], new]
        position = unit.end
    return "".join([*pieces, text[position:end]])


def _coverage(text: str, groups: Sequence[Group], rows: SourceRows, end: int) -> float:
    """The share of the text's characters, white space left out, that were read or copied."""
    shares = rows.shares([group.source for group in groups])
    dropped = sum(
        (1 - share) * num_characters(group.source) for group, share in zip(groups, shares, strict=True)
    )
    return (num_characters(text[:end]) - dropped) / num_characters(text)
