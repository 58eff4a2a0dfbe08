"""The rows of texts that MaxSim compares: of an encoder, or of a MultiVectorEncoder."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.long.lengthen import lengthened
from lckernels.long.parts import find_parts
from lckernels.tasks.documents import check_eval_mode, check_tokenizer, document_bar
from lckernels.tasks.reading_options import chunk_options, reading_options
from lckernels.tasks.span_encoder import document_prompt
from lckernels.tasks.spans import coverage
from lckernels.tasks.state_reader import StateReader


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The rows of one text.

    Attributes:
        index: its place among the texts that were given; 0 of a query.
        states: (num_rows, dim).
        offsets: (num_rows, 2) int64, the characters of each row; (0, 0) for one without, as of [CLS].
        coverage: the share of the text's characters, white space left out, that are in a token that was read.
        num_tokens: tokens of the text that were read, special tokens left out.
    """

    index: int
    states: Tensor
    offsets: Tensor
    coverage: float
    num_tokens: int


class EncoderRows:
    """Rows of an encoder: the merged states of the text's tokens, special tokens left out; as StateReader."""

    def __init__(self, model: nn.Module, tokenizer: Any, **options: Any) -> None:
        self._reader = StateReader(model, tokenizer, **options)

    def query(self, text: str) -> TokenRows:
        """The rows of a query, of which all tokens are read."""
        limit, self._reader.limit = self._reader.limit, None
        documents = self._reader.documents([text], name="query", single=True)
        self._reader.limit = limit
        return next(self._rows(documents))

    def documents(self, texts: Sequence[str]) -> Iterator[TokenRows]:
        """The rows of each text, long ones first."""
        return self._rows(self._reader.documents(texts, name="texts"))

    @torch.no_grad()
    def _rows(self, documents: Sequence[Any]) -> Iterator[TokenRows]:
        for document, states in self._reader.read(documents):
            yield TokenRows(
                document.index, states, document.offsets, document.coverage, len(document.offsets)
            )


class MultiVectorRows:
    """Rows of a MultiVectorEncoder of sentence-transformers: those that it scores, with their characters.

    Args:
        model: in eval mode; lengthened or not.
        tokenizer: None, or the model's own.
        chunk_len: as of `lengthen`.
        overlap: as of `lengthen`.
        batch: the most texts of a call of the model.
        progress: show a progress bar over several texts, or over the tokens of one.
        limit: the most tokens of a text that are read.

    Raises:
        TypeError: a tokenizer without offsets, or modules that pool tokens.
        ValueError: options of a model that is lengthened, a model in training mode.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        chunk_len: int | None = None,
        overlap: int | None = None,
        batch: int = 8,
        progress: bool = False,
        limit: int | None = None,
    ) -> None:
        self._model, self._name = model, type(model).__name__
        if tokenizer not in (None, model.tokenizer):
            raise bad("tokenizer", type(tokenizer).__name__, f"{self._name} has its own; expected None")
        check_tokenizer(model.tokenizer)
        parts = find_parts(model)
        check_eval_mode(self._name, parts.model, model)
        self._batch, self._progress, self._limit = reading_options(batch, progress, limit)
        self._is_lengthened = parts.is_lengthened
        self._options = chunk_options(self._name, self._is_lengthened, chunk_len, overlap)

    def query(self, text: str) -> TokenRows:
        """The rows of a query, those of its expansion included."""
        prompts = self._model.prompts or {}
        prompt = prompts.get("query", prompts.get(self._model.default_prompt_name)) or ""
        with self._lengthened(False):
            (features,) = self._model.encode_query([text], prompt=prompt, output_value=None)
        return self._rows(0, prompt, text, text, features)

    def documents(self, texts: Sequence[str]) -> Iterator[TokenRows]:
        """The rows of each text, long ones first."""
        prompt = document_prompt(self._model)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        count = len(texts)
        with self._lengthened(self._progress and count == 1), document_bar(count, self._progress) as bar:
            for begin in range(0, count, self._batch):
                part = order[begin : begin + self._batch]
                read = [self._within_limit(texts[i]) for i in part]
                found = self._model.encode_document(
                    read, prompt=prompt, batch_size=len(part), output_value=None, show_progress_bar=False
                )
                for i, text, features in zip(part, read, found, strict=True):
                    yield self._rows(i, prompt, text, texts[i], features)
                bar(len(part))

    def _lengthened(self, progress: bool) -> AbstractContextManager[Any]:
        if self._is_lengthened:
            return nullcontext()
        return lengthened(self._model, **self._options, progress=progress)

    def _encoding(self, text: str, prompt: str = "") -> tuple[Tensor, Tensor]:
        """Token ids, and the characters of the text of each; (0, 0) for special tokens and the prompt."""
        encoding = self._model.tokenizer(
            prompt + text,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            truncation=False,
            verbose=False,
        )
        offsets = torch.tensor(encoding["offset_mapping"], device="cpu").reshape(-1, 2) - len(prompt)
        special = torch.tensor(encoding["special_tokens_mask"], device="cpu").bool()
        offsets[special | (offsets[:, 1] <= 0)] = 0
        return torch.tensor(encoding["input_ids"], device="cpu"), offsets.clamp(min=0)

    def _within_limit(self, text: str) -> str:
        """The text, cut behind its last token that is read."""
        if self._limit is None:
            return text
        _, offsets = self._encoding(text)
        ends = offsets[offsets[:, 1] > offsets[:, 0], 1]
        return text if len(ends) <= self._limit else text[: int(ends[self._limit - 1])]

    def _rows(self, i: int, prompt: str, read: str, text: str, features: dict[str, Any]) -> TokenRows:
        """Of what `encode(output_value=None)` returns for the part of the text that was read."""
        states, scored = features["token_embeddings"], features["attention_mask"].bool().cpu()
        ids, offsets = self._encoding(read, prompt)
        given = features["input_ids"].cpu()
        if len(states) != len(given):
            got = f"{self._name}, which pools the tokens of a text"
            raise TypeError(f"model: got {got}; expected one with a row per token")
        if len(given) < len(ids) or not torch.equal(given[: len(ids)], ids):
            got = f"{self._name}, whose tokens differ from those of its tokenizer"
            raise bad("model", got, "expected padding on the right, and a tokenizer of text")
        places = torch.zeros(len(given), 2, dtype=torch.int64, device="cpu")
        places[: len(ids)] = offsets
        of_text = offsets[offsets[:, 1] > offsets[:, 0]]
        rows = scored.nonzero().flatten()
        return TokenRows(
            i, states[rows.to(states.device)], places[rows], coverage(text, of_text), len(of_text)
        )
