"""The words of a text as groups of tokens, from the characters alone: the same for every tokenizer."""

import unicodedata
from dataclasses import dataclass

import torch
from torch import Tensor

# Scripts without spaces between words: their tokens are words. First and last code point of each range.
_NO_SPACES = (
    (0x0E00, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x323AF),
)  # fmt: skip
_JOINS, _SEPARATES, _BLANK = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a text.

    Attributes:
        tokens: (num_kept,) int64, the tokens that are part of a word: those with a character that is no white
            space.
        first: (num_words,) int64, the index in `tokens` of each word's first one.
        chars: (num_words, 2) int64, the characters of each word, rising and without overlap. White space at
            the ends, which may be part of a token, is left out.
    """

    tokens: Tensor
    first: Tensor
    chars: Tensor

    def __len__(self) -> int:
        return len(self.first)


def find_words(text: str, offsets: Tensor, whole: bool = True) -> Words:
    """The words of a text.

    Two neighbouring tokens are of one word if they share a character, or if from the last character of the
    one to the first of the other no character separates words. White space does, punctuation (as in BERT's
    tokenizer), and each character of a script without spaces between words, such as Chinese characters.

    Args:
        text: the characters.
        offsets: (num_tokens, 2) int64, the characters of each token.
        whole: False for tokens as words; those that share a character are one all the same.
    """
    kinds = _kinds(text)
    starts = offsets[:, 0].flip(0).cummin(0).values.flip(0)
    ends = offsets[:, 1].cummax(0).values
    separators, characters = _counts(kinds != _JOINS), _counts(kinds != _BLANK)
    tokens = (characters[offsets[:, 1]] > characters[offsets[:, 0]]).nonzero().flatten()
    starts, ends = starts[tokens], ends[tokens]
    if not len(tokens):
        return Words(tokens, tokens, offsets[:0])
    behind, ahead = ends[:-1], starts[1:]
    joined = ahead < behind
    if whole:
        joined |= separators[ahead + 1] == separators[(behind - 1).clamp(min=0)]
    first = torch.cat([joined.new_ones(1), ~joined]).nonzero().flatten()
    last = torch.cat([first[1:], first.new_tensor([len(tokens)])]) - 1
    visible = (kinds != _BLANK).nonzero().flatten()
    begin, end = characters[starts[first]].long(), characters[ends[last]].long() - 1
    return Words(tokens, first, torch.stack([visible[begin], visible[end] + 1], dim=1))


def _counts(flags: Tensor) -> Tensor:
    """(num_characters + 1,) int32: how many flags are set before each character."""
    return torch.cat([torch.zeros(1, dtype=torch.int32, device="cpu"), flags.cumsum(0, dtype=torch.int32)])


def _kinds(text: str) -> Tensor:
    """(num_characters,) uint8: what each character does between two tokens."""
    codes = torch.frombuffer(bytearray(text.encode("utf-32-le", "surrogatepass")), dtype=torch.int32)
    table = torch.zeros(int(codes.max()) + 1, dtype=torch.uint8, device="cpu")
    table[codes] = 1
    present = table.nonzero().flatten()
    table[present] = torch.tensor([_kind(code) for code in present.tolist()], dtype=torch.uint8, device="cpu")
    return table[codes]


def _kind(code: int) -> int:
    character = chr(code)
    if character.isspace():
        return _BLANK
    category = unicodedata.category(character)
    symbol = code < 128 and not character.isalnum()
    no_spaces = any(first <= code <= last for first, last in _NO_SPACES)
    return _SEPARATES if symbol or no_spaces or category[0] == "P" else _JOINS
