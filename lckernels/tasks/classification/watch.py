"""The classes of a text that grows, as news and dialogue do: an append reads the chunks that changed."""

from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.long.encoder import LongEncoder
from lckernels.long.stream import StreamStates
from lckernels.prompts import num_virtual_tokens
from lckernels.tasks.classification.class_head import ClassHead
from lckernels.tasks.classification.classes import Classes, ClassRule
from lckernels.tasks.classification.growing_text import GrowingText
from lckernels.tasks.documents import check_surrogates
from lckernels.tasks.model_lock import model_lock
from lckernels.tasks.reader import SEQUENCE_CLASSIFICATION, DocumentReader


def watch(
    model: nn.Module,
    tokenizer: Any,
    kind: str = "auto",
    *,
    threshold: float = 0.5,
    chunk_len: int | None = None,
    overlap: int | None = None,
) -> "Watch":
    """The classes of a text that grows: after each append those of `classify` for the whole text so far.

    An append reads the last chunk again, and one more chunk each time that the text has grown by a chunk's
    content without its overlap. Of what was read before there are sums, and the states of the chunks that
    overlap the last one; their memory does not grow. Only a head that reads all states, and neither the first
    nor their mean, requires them all, (num_tokens, dim). A tokenizer without words, such as SentencePiece in
    a text without blanks, Chinese for instance, may change all tokens with each append: then each one reads
    the whole text, and memory and time grow with it.

    Args:
        model: as in `classify`. It is not changed, and a model may be watched several times at once.
        tokenizer: of the model, a fast one.
        kind: as in `classify`.
        threshold: as in `classify`.
        chunk_len: tokens of a chunk, special tokens included. Default: all positions of the model.
        overlap: tokens that neighbouring chunks share. Default: a quarter of a chunk's content.

    Returns:
        A Watch, whose `append` returns the classes.

    Raises:
        TypeError: a model without such a head, an encoder-decoder, virtual tokens; a tokenizer without
            offsets.
        ValueError: an option that is out of range, options for a model that is lengthened already, one that
            is lengthened with merge="layer", a prefix of its own or weights without a name, a model in
            training mode.
    """
    return Watch(model, tokenizer, kind, threshold=threshold, chunk_len=chunk_len, overlap=overlap)


class Watch:
    """A text that grows and its classes; `watch` returns one, with these arguments."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        kind: str = "auto",
        *,
        threshold: float = 0.5,
        chunk_len: int | None = None,
        overlap: int | None = None,
    ) -> None:
        with model_lock(model):
            self._prepare(model, tokenizer, kind, threshold, chunk_len, overlap)

    def _prepare(
        self,
        model: nn.Module,
        tokenizer: Any,
        kind: str,
        threshold: float,
        chunk_len: int | None,
        overlap: int | None,
    ) -> None:
        reader = DocumentReader(
            model, tokenizer, SEQUENCE_CLASSIFICATION, chunk_len=chunk_len, overlap=overlap
        )
        self._rule = ClassRule.of(model.config, kind, threshold)
        self._model, self._parts, self._name = model, reader.parts, reader.name
        self._check(reader)
        with reader.forward() as forward:
            if forward.prefixed is not None:
                got = f"{self._name} lengthened with a prefix of its own"
                raise bad("model", got, "expected one that is lengthened without, or not at all")
            encoder = forward.encoder
            leading, trailing = encoder.special_tokens
            self._head = ClassHead(model, reader.parts.encoder, reader.short_inputs(), leading)
        if self._head.reads is None:
            got = f"{self._name}, whose head does not call its encoder once for an output with names"
            raise TypeError(f"model: got {got}; expected one as AutoModelForSequenceClassification loads it")
        if not reader.parts.is_lengthened:
            encoder = LongEncoder(reader.parts.encoder, **encoder.options)
        self._encoder, self._is_lengthened = encoder, reader.parts.is_lengthened
        row = reader.short_inputs()["input_ids"][0].tolist()
        self._special = row[:leading], row[len(row) - trailing :]
        self._empty = GrowingText(tokenizer, self._name)
        self.reset()

    def _check(self, reader: DocumentReader) -> None:
        if reader.parts.is_encoder_decoder:
            got = f"{self._name}, an encoder-decoder, whose decoder reads the states of all tokens"
            raise TypeError(f"model: got {got}; expected an encoder with a head")
        if num_virtual_tokens(self._model):
            got = f"{self._name} with virtual tokens, which the encoder in it lacks"
            raise TypeError(f"model: got {got}; expected a model without, or another PEFT method")

    def reset(self) -> None:
        """The text is empty again."""
        self._text, self._last = self._empty, None
        self._stream = self._encoder.stream(*self._special)
        self._states: list[Tensor] = []  # final ones, for a head that reads all
        self._sum: Tensor | None = None  # of final ones, for a head that reads their mean

    @property
    def num_tokens(self) -> int:
        """Tokens of the text so far, special tokens left out."""
        return self._text.num_tokens

    @property
    def coverage(self) -> float:
        """The share of the text's characters, white space left out, that are in a token; 1.0 without any."""
        return self._text.coverage

    def append(self, text: str) -> Classes:
        """The classes of the text so far with `text` at its end.

        Where a piece begins or ends has no effect: a word, or a character, may come in two of them.

        Args:
            text: any piece of a text; an empty one returns the classes of the text so far.

        Returns:
            What `classify` returns for the whole text, up to rounding, without the curve.

        Raises:
            TypeError: a text that is no str.
            ValueError: the text so far is white space alone, or has no token, or `text` has a lone surrogate.
                It is then as before the call.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: got {type(text).__name__}; expected a str")
        check_surrogates("text", text)
        with model_lock(self._model):
            return self._append(text)

    def _append(self, text: str) -> Classes:
        if self._parts.is_lengthened != self._is_lengthened:
            got = f"{self._name}, which was {'un' * self._is_lengthened}lengthened since"
            raise bad("model", got, "call lckernels.tasks.watch again")
        grown = self._text.append(text)
        if not grown.num_tokens:
            raise bad("text", "no token so far", "expected a text that begins with more than white space")
        if text or self._last is None:
            states = self._stream.append(grown.new, grown.provisional)
            self._text, self._last = grown, None
            logits = self._logits(states)
            self._last = self._rule.classes(logits, grown.coverage, grown.num_tokens)
        return self._last

    def _logits(self, states: StreamStates) -> Tensor:
        """(num_labels,) of the head, from what it reads."""
        if self._head.reads == "first":
            return self._head.logits(states.leading[None])[0]
        # The rows of leading tokens are those of the last append.
        leads = len(states.leading)
        final = states.final[max(leads - states.first, 0) :]
        last = states.provisional[max(leads - states.first - len(states.final), 0) :]
        if self._head.reads == "all":
            self._states.append(final)
            return self._head.logits(torch.cat([states.leading, *self._states, last])[None])[0]
        total = final.double().sum(0)
        self._sum = total if self._sum is None else self._sum + total
        total = self._sum + last.double().sum(0) + states.leading.double().sum(0)
        count = states.first + len(states.final) + len(states.provisional)
        return self._head.logits((total / count)[None, None])[0]
