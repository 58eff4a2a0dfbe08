"""The bundled book, and its tokens."""

from pathlib import Path
from typing import Any

from torch import Tensor

from lckernels.perplexity.tokens import tokenize

PATH = Path(__file__).resolve().parents[1] / "data" / "jargon-file.txt"
FIRST_CHARACTER = 20_000  # behind the table of contents


def token_ids(tokenizer: Any, num_tokens: int) -> Tensor:
    """(num_tokens,) int64 from the book's first pages on."""
    text = PATH.read_text(encoding="utf-8")[FIRST_CHARACTER:][: 10 * num_tokens]
    return tokenize(tokenizer, text, num_tokens).input_ids
