"""Ways of reading a document that is longer than a chunk: what each computes, and which places it can see."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lckernels
from bench.long_tasks import models, readings, summaries
from bench.long_tasks.data.answer import WIDEST
from bench.long_tasks.data.documents import Batch
from bench.long_tasks.readings import NONE, Pieces, Read

CONTENT, OVERLAP = 64, 16  # tokens of a document in a chunk, and those that neighbouring chunks share
WINDOW = 32  # keys of each side of a query in an encoder, of the left side in a decoder
SINKS = 32  # the first tokens of a row, which all queries of a decoder see
REACH = models.LAYERS * WINDOW


@dataclass(frozen=True)
class Way:
    """How a model reads documents of any length.

    Attributes:
        name: in the table.
        build: makes the model with random weights from the number of classes.
        change: what is called with the model before it reads documents longer than a chunk.
        loss: (model, batch) -> the mean loss.
        correct: (model, batch) -> (batch, num_parts) bool, a part per place that evidence has.
        sees: batch -> (batch, num_parts) bool, whether the scores can depend on all of the evidence.
        scores: (model, batch) -> (batch, ...) what the loss is computed from; None for summaries.
    """

    name: str
    build: Callable[[int], nn.Module]
    change: Callable[[nn.Module], object]
    loss: Callable[[nn.Module, Batch], Tensor]
    correct: Callable[[nn.Module, Batch], Tensor]
    sees: Callable[[Batch], Tensor]
    scores: Callable[[nn.Module, Batch], Tensor] | None = None


def unchanged(model: nn.Module) -> None:
    """The model as it is."""


def lengthened(model: nn.Module, question_len: int = 0) -> object:
    """`lckernels.lengthen`: chunks have `CONTENT` tokens of the document, after the question if there is one.

    A question of a row [CLS] question [SEP] document [SEP] is the first segment of a pair; in other rows the
    first and the last token are special tokens.
    """
    specials = 2 + (question_len + 1 if question_len else 0)
    options = {"chunk_len": CONTENT + specials, "overlap": OVERLAP, "special_tokens": (1, 1)}
    return lckernels.lengthen(model, prefix="pair" if question_len else None, **options)


def windowed(model: nn.Module, sink_tokens: int = 0) -> object:
    """`lckernels.patch` with a window: `WINDOW` keys on each side in an encoder, on the left in a decoder."""
    size = (WINDOW, 0) if model.config.model_type == "llama" else (WINDOW, WINDOW)
    return lckernels.patch(model, window=size, sink_tokens=sink_tokens)


def everything(batch: Batch) -> Tensor:
    """Each place is seen."""
    return torch.ones(len(batch.documents), 1, dtype=torch.bool)


def first(count: int, batch: Batch) -> Tensor:
    """The first `count` tokens of a document are seen."""
    return (batch.evidence < count).all(1, keepdim=True)


def last_and_sinks(sinks: int, batch: Batch) -> Tensor:
    """What a decoder's last token can depend on; rows are [CLS] document [SEP] question."""
    row_len = batch.documents.shape[1] + 2 + batch.questions.shape[1]
    place = 1 + batch.evidence
    return ((place >= row_len - 1 - REACH) | (place < sinks)).all(1, keepdim=True)


def one_chunk(batch: Batch) -> Tensor:
    """All of the evidence is in one chunk."""
    chunks, starts = Pieces(CONTENT, OVERLAP).of(batch.documents)
    place = batch.evidence[:, None] - starts[:, None]
    return ((place >= 0) & (place < chunks.shape[2])).all(2).any(1, keepdim=True)


def classification() -> tuple[Way, ...]:
    """The ways of a sequence classifier, whose head reads the state of the first token."""
    make = partial(_classes, models.classifier)
    pieces, read = Pieces(CONTENT, OVERLAP), readings.classes
    return (
        make("truncated", readings.truncated(read, CONTENT), sees=partial(first, CONTENT)),
        make("per chunk, mean of scores", readings.merged_classes(read, pieces, "mean"), sees=one_chunk),
        make("per chunk, max of scores", readings.merged_classes(read, pieces, "max"), sees=one_chunk),
        make("lengthened", read, lengthened),
        make("windowed", read, windowed, partial(first, REACH)),  # the document begins at place 1
    )


def question_answering() -> tuple[Way, ...]:
    """The ways of a model with a start and an end score per token."""
    read, seen = readings.spans, partial(first, CONTENT)
    near = partial(_begins, REACH - 1)  # the question is at place 1 of the row, the document begins at 3
    return (
        _spans("truncated", readings.truncated(read, CONTENT, places=True), sees=seen),
        _spans(
            "per chunk, best span", readings.merged_places(read, Pieces(CONTENT, OVERLAP)), sees=one_chunk
        ),
        _spans("lengthened", read, partial(lengthened, question_len=1)),
        _spans("windowed", read, windowed, near),
    )


def causal(num_classes: int) -> tuple[Way, ...]:
    """The ways of a decoder, which reads the question behind the document."""
    make, read = partial(_classes, models.decoder), readings.next_words(num_classes)
    pieces = Pieces(CONTENT, OVERLAP)
    sinks = partial(windowed, sink_tokens=SINKS)
    return (
        make("truncated", readings.truncated(read, CONTENT), sees=partial(first, CONTENT)),
        make("per chunk, max of scores", readings.merged_classes(read, pieces, "max"), sees=one_chunk),
        make("windowed", read, windowed, partial(last_and_sinks, 0)),
        make("windowed, sink tokens", read, sinks, partial(last_and_sinks, SINKS)),
        make("full attention", read),
    )


def agreement() -> tuple[Way, ...]:
    """A classifier per token, read at the second mention, and heads that read the states of all chunks."""
    near = partial(_within, REACH)
    return (
        *classification()[:3],
        _tag("lengthened, head per token", readings.tags, lengthened, one_chunk),
        _tag("windowed, head per token", readings.tags, windowed, near),
        _classes(models.classifier, "lengthened, head on [CLS]", readings.classes, lengthened),
    )


def summarization() -> tuple[Way, ...]:
    """The ways of an encoder-decoder."""
    options = {"chunk_len": CONTENT, "overlap": OVERLAP, "special_tokens": (0, 1), "prefix": None}
    return (
        _summary("truncated", lambda x: x[:, :CONTENT], sees=lambda x: x.evidence < CONTENT),
        Way(
            "per chunk, outputs joined", models.summarizer, unchanged, _chunk_loss, _chunk_correct,
            lambda x: x.evidence >= 0,
        ),
        _summary("lengthened", lambda x: x, lambda model: lckernels.lengthen(model, **options)),
    )  # fmt: skip


def _begins(count: int, batch: Batch) -> Tensor:
    return batch.evidence[:, :1] < count


def _within(distance: int, batch: Batch) -> Tensor:
    return (batch.evidence.amax(1) - batch.evidence.amin(1) <= distance)[:, None]


def _classes(
    build: Callable[[int], nn.Module],
    name: str,
    read: Read,
    change: Callable[[nn.Module], object] = unchanged,
    sees: Callable[[Batch], Tensor] = everything,
) -> Way:
    def scores(model: nn.Module, batch: Batch) -> Tensor:
        return read(model, batch.questions, batch.documents)

    return _of_scores(name, build, change, sees, scores)


def _tag(
    name: str, read: Read, change: Callable[[nn.Module], object], sees: Callable[[Batch], Tensor]
) -> Way:
    def scores(model: nn.Module, batch: Batch) -> Tensor:
        found = read(model, batch.questions, batch.documents)
        return found[torch.arange(len(found)), batch.evidence[:, -1]]

    return _of_scores(name, models.tagger, change, sees, scores)


def _of_scores(
    name: str,
    build: Callable[[int], nn.Module],
    change: Callable[[nn.Module], object],
    sees: Callable[[Batch], Tensor],
    scores: Callable[[nn.Module, Batch], Tensor],
) -> Way:
    """A way whose scores are (batch, num_classes)."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(scores(model, batch), batch.labels)

    def correct(model: nn.Module, batch: Batch) -> Tensor:
        return (scores(model, batch).argmax(-1) == batch.labels)[:, None]

    return Way(name, build, change, loss, correct, sees, scores)


def _spans(
    name: str,
    read: Read,
    change: Callable[[nn.Module], object] = unchanged,
    sees: Callable[[Batch], Tensor] = everything,
) -> Way:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        scores = read(model, batch.questions, batch.documents).transpose(1, 2)  # (batch, 2, seqlen)
        each = F.cross_entropy(scores.flatten(0, 1), batch.labels.flatten(), reduction="none")
        readable = scores.gather(2, batch.labels[..., None])[..., 0].flatten() > NONE
        return (each * readable).sum() / readable.sum().clamp(min=1)

    def correct(model: nn.Module, batch: Batch) -> Tensor:
        best = readings.best_spans(read(model, batch.questions, batch.documents), WIDEST)
        return (best == batch.labels).all(1, keepdim=True)

    return Way(name, models.reader, change, loss, correct, sees)


def _summary(
    name: str,
    part: Callable[[Tensor], Tensor],
    change: Callable[[nn.Module], object] = unchanged,
    sees: Callable[[Batch], Tensor] = lambda batch: batch.evidence >= 0,
) -> Way:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return summaries.loss(model, part(batch.documents), summaries.with_end(batch.labels))

    def correct(model: nn.Module, batch: Batch) -> Tensor:
        return summaries.words(model, part(batch.documents), batch.labels.shape[1]) == batch.labels

    return Way(name, models.summarizer, change, loss, correct, sees)


def _chunk_loss(model: nn.Module, batch: Batch) -> Tensor:
    return summaries.loss(model, *summaries.chunk_labels(batch, Pieces(CONTENT, 0)))


def _chunk_correct(model: nn.Module, batch: Batch) -> Tensor:
    chunks, _ = summaries.chunk_labels(batch, Pieces(CONTENT, 0))
    num, items = batch.labels.shape
    return summaries.joined(summaries.words(model, chunks, items), num, items) == batch.labels
