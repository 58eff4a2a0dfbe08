"""Rows of a batch, and what a model's outputs for them are: class scores, spans, or the next word."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.long_tasks.data.documents import CLS, SEP, VALUE

NONE = -1e4  # the score of what a reading has not seen
Read = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pieces:
    """How a document is cut for reading per chunk.

    Attributes:
        content: tokens of the document in a chunk.
        overlap: tokens that neighbouring chunks share.
    """

    content: int
    overlap: int

    def of(self, documents: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks (batch, num_chunks, content) and their first places; the last one is shifted left."""
        seqlen = documents.shape[1]
        content = min(self.content, seqlen)
        step = content - min(self.overlap, content - 1)
        starts = torch.arange(0, max(seqlen - content, 0) + step, step).clamp(max=seqlen - content)
        return documents[:, starts[:, None] + torch.arange(content)], starts


def rows(questions: Tensor, documents: Tensor) -> Tensor:
    """[CLS] question [SEP] document [SEP] (batch, row_len); without a question [CLS] document [SEP]."""
    cls, sep = (documents.new_full((len(documents), 1), x) for x in (CLS, SEP))
    first = (questions, sep) if questions.shape[1] else ()
    return torch.cat((cls, *first, documents, sep), dim=1)


def named_rows(questions: Tensor, documents: Tensor) -> Tensor:
    """question document [SEP] (batch, row_len): a question of one word takes the place of [CLS]."""
    return torch.cat((questions, rows(questions[:, :0], documents)[:, 1:]), dim=1)


def classes(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
    """(batch, num_classes) scores of a sequence classifier, which reads the state of the first token."""
    arrange = named_rows if questions.shape[1] else rows
    return model(input_ids=arrange(questions, documents)).logits


def spans(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
    """(batch, seqlen, 2) start and end scores of the document's tokens."""
    output = model(input_ids=rows(questions, documents))
    scores = torch.stack((output.start_logits, output.end_logits), dim=-1)
    return scores[:, -1 - documents.shape[1] : -1]


def tags(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
    """(batch, seqlen, num_classes) scores of the document's tokens."""
    return model(input_ids=rows(questions, documents)).logits[:, -1 - documents.shape[1] : -1]


def next_words(num_classes: int) -> Read:
    """A causal model reads [CLS] document [SEP] question; its scores are those of the next word's values."""

    def read(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
        input_ids = torch.cat((rows(questions[:, :0], documents), questions), dim=1)
        logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits[:, VALUE : VALUE + num_classes]

    return read


def merged_classes(read: Read, pieces: Pieces, how: str) -> Read:
    """Class scores per chunk, merged by their "max" or "mean"."""

    def merged(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
        chunks, starts = pieces.of(documents)
        scores = read(model, questions.repeat_interleave(len(starts), 0), chunks.flatten(0, 1))
        scores = scores.unflatten(0, chunks.shape[:2])
        return scores.amax(1) if how == "max" else scores.mean(1)

    return merged


def merged_places(read: Read, pieces: Pieces) -> Read:
    """Scores of each place, the highest of the chunks that have it: one search over all chunks' scores."""

    def merged(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
        chunks, starts = pieces.of(documents)
        scores = read(model, questions.repeat_interleave(len(starts), 0), chunks.flatten(0, 1))
        scores = scores.unflatten(0, chunks.shape[:2])
        found = scores.new_full((*documents.shape, scores.shape[-1]), NONE)
        for i, start in enumerate(starts.tolist()):
            after = documents.shape[1] - start - chunks.shape[2]
            found = torch.maximum(found, F.pad(scores[:, i], (0, 0, start, after), value=NONE))
        return found

    return merged


def truncated(read: Read, content: int, places: bool = False) -> Read:
    """The first tokens of each document alone; with `places`, the other places have the score `NONE`."""

    def first(model: nn.Module, questions: Tensor, documents: Tensor) -> Tensor:
        scores = read(model, questions, documents[:, :content])
        missing = max(documents.shape[1] - content, 0)
        return F.pad(scores, (0, 0, 0, missing), value=NONE) if places else scores

    return first


def best_spans(scores: Tensor, widest: int) -> Tensor:
    """(batch, 2) first and last token of the best span of at most `widest`; scores (batch, seqlen, 2)."""
    starts, ends = scores.unbind(-1)
    ends = F.pad(ends, (0, widest - 1), value=2 * NONE).unfold(1, widest, 1)
    best = (starts[..., None] + ends).flatten(1).argmax(1)
    return torch.stack((best // widest, best // widest + best % widest), dim=1)
