"""A text as tokens for a decoder, with the bytes of each."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lckernels.errors import InputError


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of a text.

    Attributes:
        input_ids: (num_tokens,) int64.
        num_bytes: (num_tokens,) int64, the bytes in UTF-8 that each token adds.
        given: number of special tokens at the start, which add no bytes.
    """

    input_ids: Tensor
    num_bytes: Tensor
    given: int


def tokenize(tokenizer: Any, text: str, max_tokens: int | None = None) -> Tokens:
    """Tokens of a text, with the tokenizer's special tokens at the start and none at the end.

    Args:
        tokenizer: a fast tokenizer of transformers.
        text: any length; names of special tokens in it are plain text.
        max_tokens: if given, only so many tokens of the text itself.

    Raises:
        InputError: fewer than two tokens are left.
    """
    encoding = tokenizer(
        text,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        truncation=False,
        verbose=False,
        split_special_tokens=True,
    )
    ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
    if 0 not in special:
        raise InputError("the text has no token that is not a special one")
    given, end = special.index(0), len(special) - special[::-1].index(0)
    if max_tokens is not None:
        end = min(end, given + max_tokens)
    if end < 2:
        raise InputError("the text is one token; at least two are needed, one to score the other by")
    ends = torch.tensor(encoding["offset_mapping"][:end])[:, 1].cummax(0).values
    bytes_before = torch.cat([torch.zeros(1, dtype=torch.int64), _character_bytes(text).cumsum(0)])
    num_bytes = bytes_before[ends].diff(prepend=torch.zeros(1, dtype=torch.int64))
    return Tokens(torch.tensor(ids[:end]), num_bytes, given)


def _character_bytes(text: str) -> Tensor:
    """(len(text),) int64: the bytes of each character in UTF-8."""
    codes = torch.frombuffer(bytearray(text.encode("utf-32-le")), dtype=torch.int32)
    return sum(((codes >= least).long() for least in (0x80, 0x800, 0x10000)), torch.ones_like(codes).long())
