"""The standard score of a model on a file, by the length of its documents and the place of the evidence."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from lckernels.errors import InputError
from lckernels.tasks.answering.answer import answer
from lckernels.tasks.classification.classify import classify
from lckernels.tasks.evaluation.examples import Classified, Example, Question, Tagged
from lckernels.tasks.evaluation.formats import read_examples
from lckernels.tasks.evaluation.scores import class_scores, cmrc_scores, entity_scores, squad_scores
from lckernels.tasks.reader import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
)
from lckernels.tasks.tagging.schemes import read_scheme
from lckernels.tasks.tagging.tag import tag

EDGES = (128, 512, 2048, 8192, 32768, 131072)  # tokens at which a new bucket begins
Scores = dict[str, float]
Item = tuple[int, Any]  # tokens of a document or before the evidence; what is scored


@dataclass(frozen=True)
class Bucket:
    """The scores of a part of the examples.

    Attributes:
        low: the fewest tokens, of a document or before the evidence.
        high: the tokens at which the next bucket begins; None for the last one.
        count: examples in it; entities for scores by their place.
        scores: name -> value, 0 to 1.
    """

    low: int
    high: int | None
    count: int
    scores: Scores


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a file.

    Attributes:
        format: of the file.
        task: "answer", "tag" or "classify".
        num_examples: questions or documents.
        scores: name -> value over all of them, 0 to 1.
        by_length: by the tokens of the document.
        by_distance: by the tokens before the evidence: the first right answer, each entity. Empty for
            classes, whose files do not name it.
        coverage: the smallest coverage of a document.
    """

    format: str
    task: str
    num_examples: int
    scores: Scores
    by_length: list[Bucket]
    by_distance: list[Bucket]
    coverage: float


def evaluate(
    model: nn.Module, tokenizer: Any, path: str | PathLike, format: str = "auto", **options: Any
) -> Evaluation:
    """The standard scores of a model on a file of examples, whose documents are read whole.

    | format | file | task | scores |
    |---|---|---|---|
    | "squad" | SQuAD 1.1 and 2.0 JSON | `answer` | exact match, F1 of words |
    | "cmrc" | CMRC 2018 JSON, its own or SQuAD's structure | `answer` | exact match, F1 of characters |
    | "conll" | columns: a word first, its tag last | `tag` | precision, recall and F1 of exact entities |
    | "cluener" | JSON lines with `text` and `label` as CLUENER has them | `tag` | the same |
    | "iflytek" | JSON lines with `sentence` or `text`, and `label` | `classify` | accuracy, macro F1 |

    A question without an answer is right if "no answer" has the highest score.

    Args:
        model: with the head of the task, as its function takes it.
        tokenizer: of the model, a fast one.
        path: the file.
        format: one of the table, or "auto" (default).
        options: of `answer`, `tag` or `classify`: chunk_len, overlap, batch, progress, limit, and others.

    Returns:
        An Evaluation. Buckets without an example are left out.

    Raises:
        InputError: a file that cannot be read, or whose labels the model does not have.
        TypeError, ValueError: as the task's function.
    """
    return score_examples(model, tokenizer, *read_examples(Path(path), format), **options)


def head_of(examples: Sequence[Example]) -> Head:
    """The head that a model requires for examples of a file."""
    heads = {Question: QUESTION_ANSWERING, Tagged: TOKEN_CLASSIFICATION, Classified: SEQUENCE_CLASSIFICATION}
    return heads[type(examples[0])]


def score_examples(
    model: nn.Module, tokenizer: Any, name: str, examples: Sequence[Example], **options: Any
) -> Evaluation:
    """As `evaluate`, for the format and the examples that `read_examples` returns."""
    score = {Question: _answers, Tagged: _entities, Classified: _classes}[type(examples[0])]
    return score(model, tokenizer, name, examples, options)


def _answers(
    model: nn.Module, tokenizer: Any, name: str, examples: Sequence[Question], options: dict[str, Any]
) -> Evaluation:
    impossible = any(not example.answers for example in examples)
    options = {"no_answer": impossible, "top_k": 1, **options}
    questions, texts = [x.question for x in examples], [x.text for x in examples]
    found = answer(model, tokenizer, questions, texts, **options)
    is_cmrc = name == "cmrc"
    score = cmrc_scores if is_cmrc else squad_scores
    rows = []
    for example, result in zip(examples, found, strict=True):
        best = result.best
        rows.append(score("" if best is None else best.text, example.answers))
    distances = [
        (_num_tokens(tokenizer, example.text[: example.start]), row)
        for example, row in zip(examples, rows, strict=True)
        if example.start is not None
    ]
    lengths = [(result.num_tokens, row) for result, row in zip(found, rows, strict=True)]
    return Evaluation(
        format=name,
        task="answer",
        num_examples=len(examples),
        scores=_means(rows),
        by_length=_buckets(lengths, _means),
        by_distance=_buckets(distances, _means),
        coverage=min(result.coverage for result in found),
    )


def _entities(
    model: nn.Module, tokenizer: Any, name: str, examples: Sequence[Tagged], options: dict[str, Any]
) -> Evaluation:
    found = tag(model, tokenizer, [example.text for example in examples], **options)
    lengths, distances, labels = [], [], set()
    for i, (example, result) in enumerate(zip(examples, found, strict=True)):
        spans = {(entity.start, entity.end, entity.label) for entity in result.entities}
        lengths.append((result.num_tokens, (i, spans, example.entities)))
        places = _token_counts(tokenizer, example.text, {start for start, _, _ in spans | example.entities})
        distances += [(places[span[0]], (i, {span} & spans, {span} & example.entities))
                      for span in sorted(spans | example.entities)]  # fmt: skip
        labels |= {label for _, _, label in example.entities}
    known = set(read_scheme(model.config.id2label, options.get("scheme", "auto")).types)
    if labels and not labels & known:
        has = f"the file has {', '.join(sorted(labels)[:4])}"
        raise InputError(
            f"the model has none of the file's labels: {has}, the model {', '.join(sorted(known)[:4])}"
        )
    return Evaluation(
        format=name,
        task="tag",
        num_examples=len(examples),
        scores=_of_entities([item for _, item in lengths]),
        by_length=_buckets(lengths, _of_entities),
        by_distance=_buckets(distances, _of_entities),
        coverage=min(result.coverage for result in found),
    )


def _classes(
    model: nn.Module, tokenizer: Any, name: str, examples: Sequence[Classified], options: dict[str, Any]
) -> Evaluation:
    if model.config.num_labels < 2:
        raise InputError(
            "the model has one label, a number or one class; expected a model of several classes"
        )
    known = {str(label) for label in model.config.id2label.values()}
    golds = [_known_label(example.labels, known) for example in examples]
    if not any(gold in known for gold in golds):
        got = f"the file has {golds[0]}, the model {', '.join(sorted(known)[:4])}"
        raise InputError(f"the model has none of the file's labels: {got}")
    found = classify(
        model, tokenizer, [example.text for example in examples], **{"kind": "single", **options}
    )
    pairs = [(result.labels[0].label, gold) for result, gold in zip(found, golds, strict=True)]
    lengths = [(result.num_tokens, pair) for result, pair in zip(found, pairs, strict=True)]
    return Evaluation(
        format=name,
        task="classify",
        num_examples=len(examples),
        scores=_of_classes(pairs),
        by_length=_buckets(lengths, _of_classes),
        by_distance=[],
        coverage=min(result.coverage for result in found),
    )


def _known_label(names: tuple[str, ...], known: set[str]) -> str:
    """The name of a class that the model has, or the first that the file has."""
    candidates = (*names, *(f"LABEL_{name}" for name in names))
    return next((name for name in candidates if name in known), names[0])


def _means(rows: Sequence[Scores]) -> Scores:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _of_entities(items: Sequence[tuple[int, set, set]]) -> Scores:
    """Over all documents at once, each of which has a number."""
    found, gold = ({(item[0], span) for item in items for span in item[part]} for part in (1, 2))
    return entity_scores(found, gold)


def _of_classes(pairs: Sequence[tuple[str, str]]) -> Scores:
    found, gold = zip(*pairs, strict=True)
    return class_scores(found, gold)


def _buckets(items: Sequence[Item], score: Callable[[list[Any]], Scores]) -> list[Bucket]:
    """Items by their tokens; the last bucket has no upper end."""
    parts = defaultdict(list)
    for tokens, item in items:
        parts[bisect_right(EDGES, tokens)].append(item)
    lows, highs = (0, *EDGES), (*EDGES, None)
    return [Bucket(lows[i], highs[i], len(parts[i]), score(parts[i])) for i in sorted(parts)]


def _num_tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _token_counts(tokenizer: Any, text: str, starts: set[int]) -> dict[int, int]:
    """The tokens before each character."""
    counts, total = {}, 0
    for begin, end in pairwise([0, *sorted(starts)]):
        total += _num_tokens(tokenizer, text[begin:end])
        counts[end] = total
    return counts
