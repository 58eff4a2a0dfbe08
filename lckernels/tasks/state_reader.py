"""An encoder that reads documents of any length: the merged states of their tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.tasks.documents import Document, calls, document_bar, place_of, read_document
from lckernels.tasks.reading_options import reading_options
from lckernels.tasks.span_encoder import span_encoder


class StateReader:
    """A model and its tokenizer, which read documents; `DocumentReader` is that of models with a task head.

    Args:
        model: a LongEncoder, an encoder of transformers or a SentenceTransformer; lengthened or not.
        tokenizer: of the model, a fast one; None for that of a SentenceTransformer.
        chunk_len: tokens of a chunk, special tokens included. Default: the model's positions.
        overlap: tokens that neighbouring chunks share. Default: that of LongEncoder.
        batch: the most documents of a call of the model.
        progress: show a progress bar over several documents, or over the tokens of one.
        limit: the most tokens of a text that are read. Default: all.

    Raises:
        TypeError: a model without an encoder, a tokenizer without offsets.
        ValueError: an option that is out of range, chunk_len or overlap for a model that has its own, a model
            in training mode.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        chunk_len: int | None = None,
        overlap: int | None = None,
        batch: int = 8,
        progress: bool = False,
        limit: int | None = None,
    ) -> None:
        self.batch, self.progress, self.limit = reading_options(batch, progress, limit)
        given = {"chunk_len": chunk_len, "overlap": overlap}
        found = span_encoder(model, tokenizer, {name: x for name, x in given.items() if x is not None})
        self.encoder, self.tokenizer, self.name = found.encoder, found.tokenizer, found.name

    def documents(self, texts: Sequence[str], *, name: str = "text", single: bool = False) -> list[Document]:
        """The rows of the texts, in their order; `name` and `single` as in DocumentReader.documents."""
        return [
            read_document(
                self.tokenizer, text, self.name, index=i, place=place_of(name, i, single), limit=self.limit
            )
            for i, text in enumerate(texts)
        ]

    def read(self, documents: Sequence[Document]) -> Iterator[tuple[Document, Tensor]]:
        """Each document and the states (num_tokens, dim) of its text; long documents come first.

        Gradients are recorded where they are enabled.
        """
        own, count = self.encoder.progress, len(documents)
        self.encoder.progress = own or (self.progress and count == 1)
        try:
            with document_bar(count, self.progress) as bar:
                for part in calls(documents, self.batch):
                    rows = [document.input_ids for document in part]
                    states = self.encoder(input_ids=rows, return_dict=True).last_hidden_state
                    yield from (
                        (document, states[row, document.columns]) for row, document in enumerate(part)
                    )
                    bar(len(part))
        finally:
            self.encoder.progress = own

    @torch.no_grad()
    def states_of(self, document: Document) -> Tensor:
        """The states (num_tokens, dim) of one document's text."""
        ((_, states),) = self.read([document])
        return states
