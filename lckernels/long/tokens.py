"""The tokens of a text, from a fast tokenizer of transformers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lckernels.checks import bad
from lckernels.errors import InputError


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one text.

    Attributes:
        input_ids: (1, seqlen) int64, special tokens included.
        offsets: (num_tokens, 2) int64, the characters of each token, without the special tokens.
        leading: how many tokens come before those of the text: special tokens, and a first segment.
        token_type_ids: (1, seqlen) int64; None where the tokenizer returns none.
    """

    input_ids: Tensor
    offsets: Tensor
    leading: int
    token_type_ids: Tensor | None = None


# A byte-level vocabulary without merges may lack a letter; one of proteins has capitals alone.
_LETTERS = ("x", "a", "A", "1")


def count_special_tokens(tokenizer: Any, name: str) -> tuple[int, int]:
    """How many special tokens the tokenizer of model `name` adds before and after a text."""
    for text in _LETTERS:
        special = tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
        if 0 in special:
            return special.index(0), special[::-1].index(0)
    raise InputError(f"the tokenizer of {name} makes no token of any of {', '.join(_LETTERS)}")


def short_text(tokenizer: Any) -> str:
    """A text of one character of which the tokenizer makes a token."""
    return next(x for x in _LETTERS if tokenizer(x, add_special_tokens=False)["input_ids"])


def prefix_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text that every chunk reads first. Raises ValueError for one without tokens."""
    # White space at its end would be part of the next token in a text that begins with it.
    ids = tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"]
    if not ids:
        raise bad("prefix", repr(text), "expected a text with tokens, or None for no prefix")
    return ids


def tokenize(tokenizer: Any, text: str, name: str, first: str | None = None) -> Tokens:
    """The tokens of a text of any length; names of special tokens in it are tokenized as text.

    Args:
        tokenizer: a fast tokenizer.
        text: any text.
        name: of the model, for error messages.
        first: a segment before the text, such as a question; the offsets are those of the text alone.

    Raises:
        InputError: a piece of the text is a special token, and the vocabulary has no unknown token.
    """
    texts = (text,) if first is None else (first, text)
    encoding = tokenizer(
        *texts, return_offsets_mapping=True, truncation=False, verbose=False, split_special_tokens=True
    )
    ids = torch.tensor(encoding["input_ids"], device="cpu")
    if first is None:
        leading, trailing = count_special_tokens(tokenizer, name)
        inside = slice(leading, len(ids) - trailing)
    else:
        segments = encoding.sequence_ids(0)
        leading = segments.index(1) if 1 in segments else len(ids)
        before = [column for column, segment in enumerate(segments[:leading]) if segment == 0]
        for segment in (slice(before[0], before[-1] + 1),) if before else ():
            replace_special(tokenizer, ids[segment], name)
        inside = slice(leading, leading + segments.count(1))
    replace_special(tokenizer, ids[inside], name)
    offsets = torch.tensor(encoding["offset_mapping"], device="cpu").reshape(-1, 2)
    types = encoding.get("token_type_ids")
    types = None if types is None else torch.tensor(types, device="cpu")[None]
    return Tokens(ids[None], offsets[inside], leading, types)


def replace_special(tokenizer: Any, content: Tensor, name: str) -> None:
    """Replaces special tokens within a text by the unknown token, in place.

    Unigram vocabularies have pieces such as `</s>`, to which split_special_tokens does not apply.
    """
    unknown = tokenizer.unk_token_id
    special = sorted({*tokenizer.all_special_ids} - {unknown})
    found = torch.isin(content, torch.tensor(special, dtype=content.dtype, device="cpu"))
    if not found.any():
        return
    if unknown is None:
        piece = tokenizer.convert_ids_to_tokens(int(content[found][0]))
        raise InputError(f"the text holds {piece}, a special token of {name}, which has no unknown one")
    content[found] = unknown
