"""What shortens and pads texts in a tokenizer: each call sets it, and tokenizer.json stores it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TokenizerState:
    """The limit of a tokenizer, and the truncation and padding of its backend.

    Attributes:
        model_max_length: tokens.
        truncation: of the `tokenizers` library; None: none, or a tokenizer without that backend.
        padding: as truncation.
    """

    model_max_length: int
    truncation: dict[str, Any] | None = None
    padding: dict[str, Any] | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> "TokenizerState":
        """That of the tokenizer now."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return cls(tokenizer.model_max_length)
        return cls(tokenizer.model_max_length, backend.truncation, backend.padding)

    def set(self, tokenizer: Any) -> None:
        """The tokenizer has this state from now on."""
        tokenizer.model_max_length = self.model_max_length
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return
        if self.truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**self.truncation)
        if self.padding is None:
            backend.no_padding()
        else:
            backend.enable_padding(**self.padding)


@contextmanager
def restored(tokenizer: Any) -> Iterator[None]:
    """At the end the tokenizer has its state from before, whatever the calls between set; None: nothing."""
    if tokenizer is None:
        yield
        return
    state = TokenizerState.of(tokenizer)
    try:
        yield
    finally:
        state.set(tokenizer)
