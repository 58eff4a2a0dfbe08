"""The limit of tokens to which a tokenizer truncates: raised for a lengthened model, and restored."""

from typing import Any

# Above the length of every text, below the value that a fast tokenizer reads as "no limit" and warns of.
NO_LIMIT = 10**9


class _SaveWithLimit:
    """A tokenizer's save_pretrained that stores the tokenizer's own limit, not the raised one.

    Attributes:
        tokenizer: whose limit is raised.
        limit: its own.
        uses: the number of lengthened models that use it.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer, self.limit, self.uses = tokenizer, limit, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tokenizer = self.tokenizer
        raised, tokenizer.model_max_length = tokenizer.model_max_length, self.limit
        try:
            return type(tokenizer).save_pretrained(tokenizer, *args, **kwargs)
        finally:
            tokenizer.model_max_length = raised


def own_limit(tokenizer: Any) -> int:
    """The limit of a tokenizer before `raise_limit`."""
    saved = tokenizer.save_pretrained
    return saved.limit if isinstance(saved, _SaveWithLimit) else tokenizer.model_max_length


def raise_limit(tokenizer: Any) -> None:
    """A text of any length is not truncated; what the tokenizer saves does not change."""
    if not isinstance(tokenizer.save_pretrained, _SaveWithLimit):
        tokenizer.save_pretrained = _SaveWithLimit(tokenizer, tokenizer.model_max_length)
    tokenizer.save_pretrained.uses += 1
    tokenizer.model_max_length = NO_LIMIT


def restore_limit(tokenizer: Any) -> None:
    """Undoes one `raise_limit`, where there is one."""
    saved = tokenizer.save_pretrained
    if isinstance(saved, _SaveWithLimit):
        saved.uses -= 1
        if not saved.uses:
            del tokenizer.save_pretrained
            tokenizer.model_max_length = saved.limit
