"""The classes of texts of any length: states are merged, and the head runs once on each text."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.inner_forward import outer_forward
from lckernels.long.lengthened import LengthenedForward
from lckernels.long.summary import ChunkSummaries
from lckernels.segments import Column
from lckernels.tasks.classification.class_head import ClassHead
from lckernels.tasks.classification.classes import Classes, ClassRule
from lckernels.tasks.documents import Document, given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.reader import SEQUENCE_CLASSIFICATION, DocumentReader
from lckernels.tasks.results import Curve, curve


@one_at_a_time
def classify(
    model: nn.Module,
    tokenizer: Any,
    text: str | Sequence[str],
    kind: str = "auto",
    *,
    threshold: float = 0.5,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> Classes | list[Classes]:
    """The classes of a text of any length, from one run of the model's head on the whole of it.

    The encoder reads a long text in overlapping chunks. What the head reads is merged over all of them: the
    mean of the states of [CLS], each weighted by the tokens that its chunk contributes, or the merged states
    of all tokens for a head that reads those. A text of at most one chunk has the model's own result.

    Args:
        model: as AutoModelForSequenceClassification loads it, in eval mode; perhaps lengthened, or in PEFT.
        tokenizer: of the model, a fast one.
        text: one text, or several.
        kind: "single": one class of several (softmax); "multi": each class on its own (sigmoid);
            "regression": the head's numbers. "auto" (default) is `config.problem_type` where it is set; else
            "regression" for a head of one label, and "single" for others, as the loss of transformers has it.
        threshold: for "multi", the least score of a chosen class. Default: 0.5.
        chunk_len: tokens of a chunk, special tokens included. Default: all positions of the model.
        overlap: tokens that neighbouring chunks share. Default: a quarter of a chunk's content.
        batch: the most texts of a call of the model. Default: 8.
        progress: show a progress bar. Default: False.
        limit: the most tokens of a text that are read. Default: all.

    Returns:
        A Classes; for several texts a list of them. Its `curve` is the score that the head gives to the first
        of the labels for each chunk alone, from states that are there anyway: no chunk is read twice. It
        is None where a head reads other states than those of the first tokens. A class whose evidence is in
        two parts may have a low curve and a high score.

    Raises:
        TypeError: a model without such a head, a tokenizer without offsets, a text that is no str.
        ValueError: a text of white space alone, an unknown kind, an option that is out of range, options for
            a model that is lengthened already, a model in training mode.
    """
    texts, single = given_texts("text", text)
    reader = DocumentReader(
        model, tokenizer, SEQUENCE_CLASSIFICATION, chunk_len=chunk_len, overlap=overlap, batch=batch,
        progress=progress, limit=limit,
    )  # fmt: skip
    rule = ClassRule.of(model.config, kind, threshold)
    parts, results = _Parts(reader, rule), {}
    for document, output, row, summaries in reader.read_chunks(reader.documents(texts, single=single)):
        if row == 0:
            parts.next_call(summaries)
        logits = output.logits[row]
        along = parts.curve(document, row, logits)
        results[document.index] = rule.classes(logits, document.coverage, len(document.offsets), along)
    found = [results[i] for i in range(len(texts))]
    return found[0] if single else found


class _Parts:
    """The scores of single chunks, from the summaries of a call of the model.

    Args:
        reader: of the documents.
        rule: from logits to scores.
    """

    def __init__(self, reader: DocumentReader, rule: ClassRule) -> None:
        self.reader, self.rule = reader, rule
        self.summaries: ChunkSummaries | None = None
        self.scores: Tensor | None = None  # (num_chunks, num_labels)
        self.head: ClassHead | None = None

    def next_call(self, summaries: ChunkSummaries | None) -> None:
        """Takes what was recorded in a call of the model."""
        self.summaries, self.scores = summaries, None
        if summaries is None or self.reader.parts.is_encoder_decoder:  # whose decoder reads all states
            return
        if self.head is None:
            encoder = self.reader.parts.encoder
            leading = outer_forward(encoder, LengthenedForward)[1].encoder.special_tokens[0]
            self.head = ClassHead(self.reader.model, encoder, self.reader.short_inputs(), leading)
        if self.head.reads == "first":
            self.scores = self.rule.scores(self.head.logits(summaries.states))

    def curve(self, document: Document, row: int, logits: Tensor) -> Curve | None:
        """The curve of a document in a row of the call; None without scores of its chunks."""
        label = self.rule.top(logits)
        name = f"score of {self.rule.names[label]} in one chunk"
        forward = outer_forward(self.reader.parts.encoder, LengthenedForward)[1]
        if len(document) <= forward.encoder.chunk_len:
            score = self.rule.scores(logits)[label]
            return curve(name, document.offsets, score.expand(len(document.offsets)))
        if self.scores is None:
            return None
        chunks = self.summaries.chunks
        segments = chunks.segments[(chunks.documents[chunks.segments[:, Column.ROW]] == row)]
        first = int(chunks.cu_seqlens[row]) + document.leading
        values = torch.zeros(len(document.offsets), dtype=torch.float64)
        for segment in segments.tolist():
            begin = segment[Column.START] - first
            keep = slice(begin + segment[Column.KEEP_START], begin + segment[Column.KEEP_END])
            if begin >= 0 and keep.stop <= len(values):  # no special token
                values[keep] = self.scores[segment[Column.ROW], label]
        return curve(name, document.offsets, values)
