"""A model with a task head that reads documents of any length: states are merged, the head runs once."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.inner_forward import outer_forward
from lckernels.long.arguments import has_room
from lckernels.long.lengthen import lengthened
from lckernels.long.lengthened import LengthenedForward
from lckernels.long.parts import find_parts
from lckernels.long.readers import longest_chunk
from lckernels.long.sizes import Chunking
from lckernels.long.summary import ChunkSummaries, recorded_summaries
from lckernels.long.tokens import short_text
from lckernels.prompts import num_prefix_keys, num_virtual_tokens
from lckernels.tasks.documents import (
    Document,
    calls,
    check_eval_mode,
    check_tokenizer,
    document_bar,
    place_of,
    read_document,
)
from lckernels.tasks.reading_options import chunk_options, reading_options


@dataclass(frozen=True)
class Head:
    """A kind of task head.

    Attributes:
        name: in words, for messages.
        example: the class of transformers that loads one.
        fits: whether a model has it, from its config and its output for a row of tokens.
        reads_pairs: whether rows have two segments.
    """

    name: str
    example: str
    fits: Callable[[Any, Any], bool]
    reads_pairs: bool = False

    @property
    def kind(self) -> tuple[str, str]:
        """The name and the example."""
        return self.name, self.example


def _has_labels(config: Any, output: Any, rank: int) -> bool:
    logits = getattr(output, "logits", None)
    return isinstance(logits, Tensor) and logits.dim() == rank and logits.shape[-1] == config.num_labels


QUESTION_ANSWERING = Head(
    "question answering",
    "AutoModelForQuestionAnswering",
    lambda config, output: getattr(output, "start_logits", None) is not None,
    reads_pairs=True,
)
TOKEN_CLASSIFICATION = Head(
    "token classification",
    "AutoModelForTokenClassification",
    lambda config, output: _has_labels(config, output, 3),
)
SEQUENCE_CLASSIFICATION = Head(
    "sequence classification",
    "AutoModelForSequenceClassification",
    lambda config, output: _has_labels(config, output, 2),
)


class DocumentReader:
    """A model and its tokenizer, which read documents.

    Args:
        model: of transformers, with a task head, in eval mode; lengthened or not.
        tokenizer: of the model, a fast one.
        head: which head the model must have.
        chunk_len: tokens of a chunk, special tokens and first segment included. Default: that of `defaults`,
            at most the model's positions.
        overlap: tokens that neighbouring chunks share. Default: that of `defaults`.
        batch: the most documents of a call of the model.
        progress: show a progress bar: over the tokens of one document, over several documents.
        limit: the most tokens of a text that are read. Default: all.
        defaults: (chunk_len, overlap) of the task; None for those of `lengthen`.

    Attributes:
        chunking: the sizes of a chunk.
        reads_pairs: whether every chunk reads the first of two segments.
        num_virtual: virtual tokens of PEFT's prompt learning, the first columns of each row of the output.

    Raises:
        TypeError: a model without an encoder or without the head; a tokenizer without offsets.
        ValueError: an option that is out of range, options for a model that is lengthened already, a model in
            training mode.
    """

    chunking: Chunking
    reads_pairs: bool

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        head: Head,
        *,
        chunk_len: int | None = None,
        overlap: int | None = None,
        batch: int = 8,
        progress: bool = False,
        limit: int | None = None,
        defaults: tuple[int, int] | None = None,
    ) -> None:
        check_tokenizer(tokenizer)
        self.model, self.tokenizer, self.name = model, tokenizer, type(model).__name__
        self.parts = find_parts(model)
        check_eval_mode(self.name, model)
        self.num_virtual = num_virtual_tokens(model) - num_prefix_keys(model)
        self.batch, self.progress, self.limit = reading_options(batch, progress, limit)
        given = chunk_options(self.name, self.parts.is_lengthened, chunk_len, overlap)
        self._options = given if self.parts.is_lengthened else self._with_defaults(given, defaults)
        self._check_head(head)

    def documents(
        self,
        texts: Sequence[str],
        first: str | Sequence[str] | None = None,
        *,
        name: str = "text",
        single: bool = False,
    ) -> list[Document]:
        """The rows of the texts, in their order.

        Args:
            texts: of any length.
            first: a segment before each text, or one for each of them.
            name: the argument of the texts, for messages.
            single: whether that argument is one text.
        """
        firsts = [first] * len(texts) if first is None or isinstance(first, str) else list(first)
        return [
            read_document(
                self.tokenizer,
                text,
                self.name,
                index=i,
                place=place_of(name, i, single),
                first=before,
                limit=self.limit,
            )
            for i, (text, before) in enumerate(zip(texts, firsts, strict=True))
        ]

    def check_room(self, documents: Sequence[Document], names: Sequence[str]) -> None:
        """Raises ValueError if a first segment has no room in the chunks of its text, or is not in each.

        Args:
            documents: with a segment before each text.
            names: of the arguments that these segments are from, for messages.
        """
        chunking = self.chunking
        for document, name in zip(documents, names, strict=True):
            length = len(document) + self.num_virtual
            if length <= chunking.chunk_len:
                continue
            if not self.reads_pairs:
                got = f"{self.name}, lengthened with another prefix than 'pair'"
                raise bad("model", got, f"every chunk has to read the {name}; expected prefix='pair'")
            fixed = length - len(document.offsets)
            if not has_room(torch.tensor(fixed), torch.tensor(length), chunking):
                overlap = f" that shares {chunking.overlap}" if chunking.overlap_given else ""
                room = chunking.chunk_len - chunking.min_room
                allowed = (
                    f"a chunk of {chunking.chunk_len} tokens{overlap} has room for {room} beside the "
                    f"text's own; every chunk reads the {name.partition('[')[0]}: "
                    "shorten it, or pass a larger chunk_len"
                )
                raise bad(name, f"{fixed} tokens, special tokens included", allowed)

    @torch.no_grad()
    def read(self, documents: Sequence[Document]) -> Iterator[tuple[Document, Any, int]]:
        """Each document, the model's output for its batch, and its row there; long documents come first.

        Output tensors of tokens have the columns of the row, behind `num_virtual` others:
        `output.logits[row, num_virtual:][document.columns]`.
        """
        count = len(documents)
        with self._lengthened(count == 1), document_bar(count, self.progress) as bar:
            for part in calls(documents, self.batch):
                output = self.model(**self._inputs(part), return_dict=True)
                yield from ((document, output, row) for row, document in enumerate(part))
                bar(len(part))

    def read_chunks(
        self, documents: Sequence[Document], width: int | None = None
    ) -> Iterator[tuple[Document, Any, int, ChunkSummaries | None]]:
        """As `read`, with the first states of each chunk of the call; None where none were merged.

        Args:
            documents: as of `read`.
            width: the most first states of a chunk, virtual tokens included. Default: all that chunks share.
        """
        summaries = None
        with recorded_summaries(width) as record:
            for document, output, row in self.read(documents):
                if row == 0:
                    summaries = record[0] if record else None
                    record.clear()
                yield document, output, row, summaries

    @property
    def _reads_types(self) -> bool:
        """Whether the model has embeddings of token types; RoBERTa's one type has no meaning."""
        return (getattr(self.parts.encoder.config, "type_vocab_size", 0) or 0) > 1

    def _with_defaults(self, given: dict[str, Any], defaults: tuple[int, int] | None) -> dict[str, Any]:
        if defaults is None:
            return given
        found = longest_chunk(self.parts.encoder, self.parts.readers)
        positions = defaults[0] if found is None else found[0]
        if "chunk_len" in given:
            return given
        chunk_len = min(defaults[0], positions)
        if "overlap" in given or chunk_len < defaults[0]:
            return {"chunk_len": chunk_len, **given}
        return {"chunk_len": chunk_len, "overlap": defaults[1]}

    def _inputs(self, documents: Sequence[Document]) -> dict[str, Tensor]:
        """Padded on the right."""
        device = next(self.model.parameters()).device
        padding = self.tokenizer.pad_token_id or 0
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [document.input_ids for document in documents]
        inputs = {
            "input_ids": pad(ids, batch_first=True, padding_value=padding),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        }
        types = [document.token_type_ids for document in documents]
        if types[0] is not None and self._reads_types:
            inputs["token_type_ids"] = pad(types, batch_first=True)
        return {name: x.to(device) for name, x in inputs.items()}

    @contextmanager
    def _lengthened(self, single: bool = False) -> Iterator[None]:
        if self.parts.is_lengthened:
            yield
            return
        with lengthened(self.model, self.tokenizer, **self._options, progress=self.progress and single):
            yield

    @contextmanager
    def forward(self) -> Iterator[LengthenedForward]:
        """The forward of the encoder, which is lengthened within."""
        with self._lengthened():
            yield outer_forward(self.parts.encoder, LengthenedForward)[1]

    def short_inputs(self, pair: bool = False) -> dict[str, Tensor]:
        """The model's arguments for a row of a few tokens, of a text or of two segments."""
        text = short_text(self.tokenizer)
        return self._inputs([read_document(self.tokenizer, text, self.name, first=text if pair else None)])

    @torch.no_grad()
    def _check_head(self, head: Head) -> None:
        """Raises TypeError for a model without the head, from a row of a few tokens."""
        got = f"{self.name}, without a head for {head.name}"
        wrong_head = f"model: got {got}; expected one as {head.example} loads it"
        generates = getattr(self.model, "can_generate", bool)()
        if generates and self.model.config.is_encoder_decoder:  # its forward requires tokens of a decoder
            raise TypeError(wrong_head)
        with self.forward() as forward:
            self.chunking, self.reads_pairs = forward.encoder.chunking, forward.pairs is not None
            output = self.model(**self.short_inputs(head.reads_pairs), return_dict=True)
        if not head.fits(self.model.config, output):
            raise TypeError(wrong_head)
