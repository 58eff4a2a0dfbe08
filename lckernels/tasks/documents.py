"""Documents of a task: the texts that were given, their tokens, and what was read of them."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.extras import import_extra
from lckernels.long.chunking import micro_batches
from lckernels.long.tokens import tokenize
from lckernels.tasks.spans import coverage

_SURROGATE = re.compile("[\ud800-\udfff]")
_CALL_TOKENS = 2**16  # of documents that share a call of the model


@dataclass(frozen=True, eq=False)
class Document:
    """One text, as a row of token ids.

    Attributes:
        index: its place among the texts that were given.
        text: its characters.
        input_ids: (seqlen,) int64: special tokens, a first segment if there is one, the text.
        token_type_ids: (seqlen,) int64; None where the tokenizer returns none.
        offsets: (num_tokens, 2) int64, the characters of each token of the text that is read.
        leading: how many columns of `input_ids` come before the text.
        coverage: the share of the text's characters, white space left out, that are in a token that is read.
        place: the argument that the text is, for messages, such as "text[2]".
    """

    index: int
    text: str
    input_ids: Tensor
    token_type_ids: Tensor | None
    offsets: Tensor
    leading: int
    coverage: float
    place: str = "text"

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def columns(self) -> slice:
        """The columns of the text's own tokens, for `logits[row, document.columns]`."""
        return slice(self.leading, self.leading + len(self.offsets))


def given_texts(name: str, texts: str | Sequence[str]) -> tuple[list[str], bool]:
    """The texts of an argument as a list, and whether it was one text.

    Raises:
        TypeError: an argument, or a part of it, that is no str.
        ValueError: a text without a character that is no white space, or with a lone surrogate.
    """
    single = isinstance(texts, str)
    if not single and (not isinstance(texts, Sequence) or isinstance(texts, bytes)):
        raise _no_text(name, texts)
    found = [texts] if single else list(texts)
    for i, text in enumerate(found):
        place = place_of(name, i, single)
        if not isinstance(text, str):
            raise _no_text(place, text)
        if not text.strip():
            got = "an empty text" if not text else "white space alone"
            raise bad(place, got, "expected a text")
        check_surrogates(place, text)
    return found, single


def place_of(name: str, index: int, single: bool) -> str:
    """One of the texts of an argument, for messages: the argument itself where it is one text."""
    return name if single else f"{name}[{index}]"


def check_surrogates(name: str, text: str) -> None:
    """Raises ValueError for a text with a lone surrogate, which is no character and has no UTF-8."""
    found = _SURROGATE.search(text)
    if found:
        got = f"a lone surrogate, U+{ord(found[0]):04X}, at character {found.start()}"
        raise bad(name, got, "expected text that can be written in UTF-8")


def _no_text(place: str, got: object) -> TypeError:
    """The error for something else than a text."""
    advice = ""
    if isinstance(got, PathLike):
        advice = ", such as path.read_text() of a file"
    elif isinstance(got, (Tensor, Mapping, list, int)):
        advice = ": the characters, not token ids"
    return TypeError(f"{place}: got {type(got).__name__}; expected a str, or a list of them{advice}")


def read_document(
    tokenizer: Any,
    text: str,
    name: str,
    *,
    index: int = 0,
    place: str = "text",
    first: str | None = None,
    limit: int | None = None,
) -> Document:
    """The row of a text.

    Args:
        tokenizer: a fast tokenizer.
        text: any text.
        name: of the model, for error messages.
        index: of the text among those that were given.
        place: the argument that the text is, for messages.
        first: a segment before the text, such as a question.
        limit: the most tokens of the text that are read. Default: all.

    Raises:
        InputError: a piece of the text is a special token, and the vocabulary has no unknown token.
        ValueError: the tokenizer makes no token of the text.
    """
    tokens = tokenize(tokenizer, text, name, first)
    if not len(tokens.offsets):
        raise bad(place, "a text without a token", "expected one that the tokenizer has tokens for")
    ids, types = tokens.input_ids[0], tokens.token_type_ids
    types, offsets = None if types is None else types[0], tokens.offsets
    if limit is not None and limit < len(offsets):
        kept = torch.ones(len(ids), dtype=torch.bool, device="cpu")
        kept[tokens.leading + limit : tokens.leading + len(offsets)] = False
        ids, types, offsets = ids[kept], None if types is None else types[kept], offsets[:limit]
    return Document(index, text, ids, types, offsets, tokens.leading, coverage(text, offsets), place)


def calls(documents: Sequence[Document], batch: int) -> Iterator[list[Document]]:
    """The documents that share a call of a model, long ones first: at most `batch`, of similar lengths."""
    order = sorted(documents, key=len, reverse=True)
    ranges = micro_batches([len(document) for document in order], _CALL_TOKENS) if order else ()
    for first, last in ranges:
        for begin in range(first, last, batch):
            yield order[begin : min(begin + batch, last)]


@contextmanager
def document_bar(count: int, shown: bool) -> Iterator[Callable[[int], Any]]:
    """A function that advances a bar (tqdm) by a number of documents; one document has no such bar."""
    if not shown or count == 1:
        yield lambda read: None
        return
    with import_extra("tqdm", "hf").tqdm(total=count, unit="document") as bar:
        yield bar.update


def check_tokenizer(tokenizer: Any) -> None:
    """Raises TypeError for a tokenizer without offsets of tokens."""
    if not getattr(tokenizer, "is_fast", False):
        kind = "None" if tokenizer is None else f"{type(tokenizer).__name__}, without offsets of its tokens"
        raise TypeError(
            f"tokenizer: got {kind}; expected the model's fast tokenizer, as AutoTokenizer loads it"
        )


def check_eval_mode(name: str, *modules: nn.Module) -> None:
    """Raises ValueError for modules of a model that are in training mode."""
    parts = [part for module in modules for part in module.modules()]
    if any(module.training for module in modules[:1]) or any(
        isinstance(part, nn.Dropout) and part.training for part in parts
    ):
        raise bad("model", f"{name} in training mode", "expected model.eval()")
