"""Rows of an encoder-decoder: special tokens, a prefix, context, and the tokens of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lckernels.checks import bad
from lckernels.long.tokenizer_state import restored
from lckernels.long.tokens import count_special_tokens, prefix_ids, replace_special, short_text
from lckernels.tasks.spans import coverage


@dataclass(frozen=True)
class Row:
    """A row of the encoder.

    Attributes:
        ids: all its tokens.
        context: the columns [start, end) whose states the decoder does not read.
    """

    ids: list[int]
    context: tuple[int, int] = (0, 0)


class SourceRows:
    """Makes rows of texts by a tokenizer, fast or slow.

    Args:
        tokenizer: of the model.
        name: of the model, for messages.
        prefix: what each row begins with, such as "summarize: ".

    Attributes:
        prefix: its tokens.
        num_fixed: tokens of a row that are not of its text: special tokens and prefix.
    """

    def __init__(self, tokenizer: Any, name: str, prefix: str | None = None) -> None:
        self.tokenizer, self.name = tokenizer, name
        with restored(tokenizer):
            leading, trailing = count_special_tokens(tokenizer, name)
            ids = list(tokenizer(short_text(tokenizer))["input_ids"])
            self.prefix = prefix_ids(tokenizer, prefix) if prefix else []
        self._leading, self._trailing = ids[:leading], ids[len(ids) - trailing :]
        self.num_fixed = leading + len(self.prefix) + trailing

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text; names of special tokens in it are tokenized as text."""
        if not texts:
            return []
        options = {"add_special_tokens": False, "split_special_tokens": True, "truncation": False}
        with restored(self.tokenizer):
            rows = self.tokenizer(list(texts), **options, verbose=False)["input_ids"]
        content = torch.tensor([token for row in rows for token in row], dtype=torch.int64, device="cpu")
        replace_special(self.tokenizer, content, self.name)
        return [part.tolist() for part in content.split([len(row) for row in rows])]

    def row(self, ids: Sequence[int], context: Sequence[int] = ()) -> Row:
        """Special tokens, prefix, context, and the tokens of a text."""
        before = [*self._leading, *self.prefix]
        columns = (len(before), len(before) + len(context))
        return Row([*before, *context, *ids, *self._trailing], columns)

    def shares(self, texts: Sequence[str]) -> list[float]:
        """The share of each text's characters that are in a token; 1.0 for a tokenizer without offsets."""
        if not texts or not getattr(self.tokenizer, "is_fast", False):
            return [1.0] * len(texts)
        options = {"add_special_tokens": False, "split_special_tokens": True, "truncation": False}
        with restored(self.tokenizer):
            found = self.tokenizer(list(texts), **options, return_offsets_mapping=True, verbose=False)
        offsets = (torch.tensor(x, device="cpu").reshape(-1, 2) for x in found["offset_mapping"])
        return [coverage(text, x) for text, x in zip(texts, offsets, strict=True)]


def language_id(tokenizer: Any, name: str, code: str) -> int:
    """The token of a language of NLLB, mBART or M2M100.

    Args:
        tokenizer: of the model.
        name: of the argument, for messages.
        code: as the tokenizer has it, such as "fra_Latn", "fr_XX" or "fr".

    Raises:
        ValueError: the tokenizer has no such language, or none at all.
    """
    if not hasattr(tokenizer, "src_lang"):
        hint = "expected None, or a tokenizer with languages, such as that of NLLB, mBART or M2M100"
        raise bad(name, f"{code!r} for {type(tokenizer).__name__}", hint)
    codes = getattr(tokenizer, "lang_code_to_id", None)
    if codes is None:  # NLLB, whose codes are tokens
        names = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
        others = {getattr(tokenizer, f"{kind}_token_id", None) for kind in names}
        languages = {*tokenizer.all_special_ids} - others
        codes = {tokenizer.convert_ids_to_tokens(token): token for token in languages}
    if not isinstance(code, str) or code not in codes:
        raise bad(name, repr(code), f"expected a language's code of {type(tokenizer).__name__}")
    return codes[code]
