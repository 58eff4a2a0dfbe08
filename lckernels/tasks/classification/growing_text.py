"""A text that grows: its tokens, of which an append changes the last ones alone."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from lckernels.errors import InputError
from lckernels.long.tokens import replace_special
from lckernels.tasks.spans import num_characters, num_missing

_HELD_WORDS = 3  # at the end, that further text may change: a prefix, a contraction, white space
_CONTEXT_WORDS = (
    3  # before those, that are tokenized again so that the others have the tokens of the whole text
)
_LONGEST = 1024  # characters of settled tokens that are kept, before some of them are dropped


@dataclass(frozen=True, eq=False)
class GrowingText:
    """The end of a text, after an append; `append` returns the next one.

    Tokens of words before the last few are settled: no further text changes them. What a word is, is that of
    the tokenizer's own first step; of one without this step, such as SentencePiece in a text without blanks,
    the whole text is one word, and each append tokenizes it again.

    Attributes:
        tokenizer: a fast tokenizer.
        name: of the model, for messages.
        new: ids that became settled in the last append.
        provisional: ids of the tokens after them, which the next append replaces.
        num_settled: tokens that are settled.
    """

    tokenizer: Any
    name: str
    new: list[int] = field(default_factory=list)
    provisional: list[int] = field(default_factory=list)
    num_settled: int = 0
    _end: str = ""  # of the text
    _known: tuple[int, ...] = ()  # the ids of its first tokens, which are settled
    _settled_chars: int = 0  # characters of it before the provisional tokens
    _num_characters: int = 0  # of the whole text, without white space
    _num_missing: int = 0  # of these, in no token; of the text before the provisional tokens
    _missing_at_end: int = 0  # the same of the rest

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole text, special tokens left out."""
        return self.num_settled + len(self.provisional)

    @property
    def coverage(self) -> float:
        """The share of the text's characters, white space left out, that are in a token."""
        missing = self._num_missing + self._missing_at_end
        return 1 - missing / self._num_characters if self._num_characters else 1.0

    def append(self, text: str) -> Self:
        """The text with more at its end.

        Raises:
            InputError: the tokenizer changes tokens of words far from the end, so that no token is settled.
        """
        end = self._end + text
        ids, offsets, words = self._tokens(end)
        known = len(self._known)
        if tuple(ids[:known]) != self._known:
            raise InputError(
                f"the tokenizer of {self.name} changed the tokens of text long before the end of what was "
                "appended; expected one whose words have the same tokens whatever follows"
            )
        begins = [i for i in range(known, len(ids)) if i == 0 or words[i] != words[i - 1]]
        held = len(end) - self._held_characters
        allowed = [i for i in begins[: 1 - _HELD_WORDS] if int(offsets[i, 0]) <= held]
        first = allowed[-1] if allowed else known
        chars = int(offsets[first, 0]) if allowed else self._settled_chars
        between = slice(self._settled_chars, chars)
        missing = num_missing(end[between], offsets[known:first] - between.start) if allowed else 0
        grown = replace(
            self, new=ids[known:first], provisional=ids[first:],
            num_settled=self.num_settled + first - known,
            _end=end, _known=tuple(ids[:first]), _settled_chars=chars,
            _num_characters=self._num_characters + num_characters(text),
            _num_missing=self._num_missing + missing,
            _missing_at_end=num_missing(end[chars:], offsets[first:] - chars),
        )  # fmt: skip
        return grown._without_beginning(ids, offsets, words) if chars > _LONGEST else grown

    @property
    def _held_characters(self) -> int:
        """The longest token that users added, which is found in the text before there are words."""
        return max(map(len, self.tokenizer.get_added_vocab()), default=0)

    def _tokens(self, text: str) -> tuple[list[int], Tensor, list[int | None]]:
        """The ids of a text, (num_tokens, 2) their characters, and the word of each."""
        encoding = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False,
            split_special_tokens=True,
        )  # fmt: skip
        ids = torch.tensor(encoding["input_ids"], dtype=torch.int64, device="cpu")
        replace_special(self.tokenizer, ids, self.name)
        offsets = torch.tensor(encoding["offset_mapping"], dtype=torch.int64, device="cpu").reshape(-1, 2)
        return ids.tolist(), offsets, encoding.word_ids(0)

    def _without_beginning(self, ids: list[int], offsets: Tensor, words: list[int | None]) -> Self:
        """The same with a shorter `_end`, if the tokens after that are the same without what was before."""
        first = len(self._known)
        begins = [i for i in range(1, first) if words[i] != words[i - 1]][-_CONTEXT_WORDS:]
        if not begins:
            return self
        cut = int(offsets[begins[0] - 1, 1])
        other, places, _ = self._tokens(self._end[cut:])
        known = int((places[:, 0] + cut < self._settled_chars).sum())
        if other[known:] != ids[first:] or not torch.equal(places[known:] + cut, offsets[first:]):
            return self
        chars = self._settled_chars - cut
        return replace(self, _end=self._end[cut:], _known=tuple(other[:known]), _settled_chars=chars)
