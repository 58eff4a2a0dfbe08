"""What each way finds in a document: truncation, outputs of chunks merged, lckernels.tasks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from bench.task_scores.models import CHUNK
from bench.task_scores.texts import Document, Part
from lckernels.tasks import answer, tag

OVERLAP = 8
Way = Callable[[nn.Module, Any, Document], set[Part]]
_Found = tuple[Part, float]  # with its score


def _chunks(document: Document, room: int) -> Iterator[tuple[int, list[str]]]:
    """The first word of each chunk, and its words; neighbours share OVERLAP."""
    begins = range(0, max(1, len(document.words) - OVERLAP), room - OVERLAP)
    for begin in begins:
        yield begin, document.words[begin : begin + room]


def _words(document: Document, start: int, end: int) -> tuple[int, int]:
    """The words of characters [start, end)."""
    first = document.text[:start].count(" ")
    return first, first + document.text[start:end].count(" ") + 1


# Question answering


@torch.no_grad()
def _best_answer(
    model: nn.Module, tokenizer: Any, document: Document, begin: int, words: list[str]
) -> _Found:
    """The best span of one chunk, with start + end as its score."""
    inputs = tokenizer(document.question, " ".join(words), return_tensors="pt")
    output = model(**inputs)
    starts, ends = (x[0, 3 : 3 + len(words)].double() for x in (output.start_logits, output.end_logits))
    scores = (starts[:, None] + ends).triu().tril(29)
    scores = scores.masked_fill(torch.ones_like(scores).triu().tril(29) == 0, -torch.inf)
    start, end = divmod(int(scores.argmax()), len(words))
    return Part(begin + start, begin + end + 1, "answer"), float(scores.max())


def answers_truncated(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    first = document.words[: CHUNK - 4]
    return {_best_answer(model, tokenizer, document, 0, first)[0]}


def answers_merged(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    """The best answer of any chunk, as extractive readers have it."""
    found = (_best_answer(model, tokenizer, document, *chunk) for chunk in _chunks(document, CHUNK - 4))
    return {max(found, key=lambda one: one[1])[0]}


def answers_lckernels(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    (best,) = answer(
        model, tokenizer, document.question, document.text, 1, False, chunk_len=CHUNK, overlap=OVERLAP
    ).answers
    return {Part(*_words(document, best.start, best.end), "answer")}


# Tags


@torch.no_grad()
def _entities(model: nn.Module, tokenizer: Any, begin: int, words: list[str]) -> list[_Found]:
    """Entities of one chunk from the best label of each word, joined as transformers' pipeline joins them."""
    logits = model(**tokenizer(" ".join(words), return_tensors="pt")).logits[0, 1:-1]
    scores, labels = logits.softmax(-1).max(-1)
    found: list[tuple[int, int, str, list[float]]] = []
    for i, (score, label) in enumerate(zip(scores.tolist(), labels.tolist(), strict=True)):
        letter, _, name = model.config.id2label[label].partition("-")
        if not name:
            continue
        if letter == "I" and found and found[-1][1] == i and found[-1][2] == name:
            start, _, _, values = found.pop()
            found.append((start, i + 1, name, [*values, score]))
        else:
            found.append((i, i + 1, name, [score]))
    return [
        (Part(begin + start, begin + end, name), sum(values) / len(values))
        for start, end, name, values in found
    ]


def tags_truncated(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    return {part for part, _ in _entities(model, tokenizer, 0, document.words[: CHUNK - 2])}


def _all_entities(model: nn.Module, tokenizer: Any, document: Document) -> list[_Found]:
    chunks = _chunks(document, CHUNK - 2)
    return [one for chunk in chunks for one in _entities(model, tokenizer, *chunk)]


def tags_longest(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    """As transformers' pipeline with `stride`: of entities that overlap the longest, then the surest."""
    found = sorted(_all_entities(model, tokenizer, document), key=lambda one: one[0].start)
    kept: list[_Found] = []
    for part, score in found:
        if not kept or part.start >= kept[-1][0].end:
            kept.append((part, score))
            continue
        last, last_score = kept[-1]
        if (part.end - part.start, score) > (last.end - last.start, last_score):
            kept[-1] = (part, score)
    return {part for part, _ in kept}


def tags_surest(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    """As GLiNER2's functions for long texts: of entities that overlap the surest."""
    kept: list[Part] = []
    for part, _ in sorted(_all_entities(model, tokenizer, document), key=lambda one: -one[1]):
        if all(part.end <= other.start or other.end <= part.start for other in kept):
            kept.append(part)
    return set(kept)


def tags_lckernels(model: nn.Module, tokenizer: Any, document: Document) -> set[Part]:
    found = tag(model, tokenizer, document.text, chunk_len=CHUNK, overlap=OVERLAP).entities
    return {Part(*_words(document, one.start, one.end), one.label) for one in found}


TRUNCATED, OWN = "truncated", "lckernels"
WAYS: dict[str, dict[str, Way]] = {
    "answer": {
        TRUNCATED: answers_truncated,
        "chunks, best answer of any": answers_merged,
        OWN: answers_lckernels,
    },
    "tag": {
        TRUNCATED: tags_truncated,
        "chunks, longest entity (transformers' stride)": tags_longest,
        "chunks, surest entity (GLiNER2)": tags_surest,
        OWN: tags_lckernels,
    },
}
