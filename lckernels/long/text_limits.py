"""The limit of tokens to which a tokenizer truncates: raised for a lengthened model, and restored."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any

from lckernels.callers import outer_stacklevel
from lckernels.checks import bad
from lckernels.long.tokenizer_state import TokenizerState, restored

# Above the length of every text, below the value that a fast tokenizer reads as "no limit" and warns of.
NO_LIMIT = 10**9
_RAISED = "_lckernels_limit"  # attribute of a tokenizer whose limit is raised
# Its methods that differ; the last two are not in the documentation of transformers. Without them there is no
# warning of truncated texts, and padding to a length that is not given runs out of memory.
_METHODS = ("save_pretrained", "_encode_plus", "_get_padding_truncation_strategies")


class _RaisedLimit:
    """Methods of a tokenizer without a limit: it saves its own, and warns of texts that it truncates.

    Attributes:
        tokenizer: whose limit is raised.
        own: its state from before.
        uses: the number of lengthened models that use it.
        is_own: whether the tokenizer has its own state, while it is saved.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.own, self.uses = tokenizer, TokenizerState.of(tokenizer), 0
        self.is_own = False

    def install(self) -> None:
        """Sets the limit and the methods."""
        TokenizerState(NO_LIMIT).set(self.tokenizer)
        setattr(self.tokenizer, _RAISED, self)
        for name in _METHODS:
            if hasattr(type(self.tokenizer), name):
                setattr(self.tokenizer, name, getattr(self, name))

    def remove(self) -> None:
        """Restores what was there before."""
        for name in (_RAISED, *_METHODS):
            self.tokenizer.__dict__.pop(name, None)
        self.own.set(self.tokenizer)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Stores the tokenizer's own state."""
        with own_limits(self.tokenizer):
            return type(self.tokenizer).save_pretrained(self.tokenizer, *args, **kwargs)

    def _get_padding_truncation_strategies(self, *args: Any, **kwargs: Any) -> tuple:
        """Raises ValueError for padding to a length that is not given."""
        found = type(self.tokenizer)._get_padding_truncation_strategies(self.tokenizer, *args, **kwargs)
        if found[0] == "max_length" and found[2] == NO_LIMIT:
            allowed = "the tokenizer of a lengthened model has no limit: pass max_length, or padding=True"
            raise bad("padding", "'max_length' without max_length", allowed)
        return found

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        """Warns of the tokens that are cut off."""
        encode = type(self.tokenizer)._encode_plus
        if _thread.encodes or self.is_own:  # a slow tokenizer encodes a batch text by text
            return encode(self.tokenizer, *args, **kwargs)
        limit, strategy = kwargs.get("max_length"), kwargs.get("truncation_strategy", _NEVER)
        cuts = strategy != _NEVER and limit is not None and not kwargs.get("return_overflowing_tokens")
        lengths: list[int] = []
        _thread.encodes = True
        try:
            encoded = encode(self.tokenizer, *args, **kwargs)
            if cuts and max(_lengths(encoded), default=0) >= limit:
                whole = {**kwargs, "return_tensors": None, "verbose": False, "max_length": None}
                whole["truncation_strategy"] = type(strategy)(_NEVER)
                whole["padding_strategy"] = type(kwargs.get("padding_strategy", ""))("do_not_pad")
                lengths = _lengths(encode(self.tokenizer, *args, **whole))
        finally:
            _thread.encodes = False
        _warn_of_cuts(lengths, limit)
        return encoded


_NEVER = "do_not_truncate"


class _Thread(local):
    """Whether the thread is in `_encode_plus`."""

    encodes = False


_thread = _Thread()


def own_limit(tokenizer: Any) -> int:
    """The limit of a tokenizer before `raise_limit`."""
    raised = getattr(tokenizer, "__dict__", {}).get(_RAISED)
    return tokenizer.model_max_length if raised is None else raised.own.model_max_length


@contextmanager
def own_limits(tokenizer: Any) -> Iterator[None]:
    """Until the end the tokenizer has its state from before `raise_limit`."""
    raised = tokenizer.__dict__.get(_RAISED)
    if raised is None or raised.is_own:
        yield
        return
    with restored(tokenizer):
        raised.own.set(tokenizer)
        raised.is_own = True
        try:
            yield
        finally:
            raised.is_own = False


def raise_limit(tokenizer: Any) -> None:
    """A text of any length is not truncated; what the tokenizer saves does not change."""
    raised = tokenizer.__dict__.get(_RAISED)
    if raised is None:
        raised = _RaisedLimit(tokenizer)
        raised.install()
    raised.uses += 1


def restore_limit(tokenizer: Any) -> None:
    """Undoes one `raise_limit`, where there is one."""
    raised = tokenizer.__dict__.get(_RAISED)
    if raised is not None:
        raised.uses -= 1
        if not raised.uses:
            raised.remove()


def _lengths(encoded: Mapping[str, Any]) -> list[int]:
    """The tokens of each row, padding included."""
    ids = encoded["input_ids"]
    if hasattr(ids, "shape"):
        return [ids.shape[-1]] * (ids.shape[0] if len(ids.shape) > 1 else 1)
    return [len(row) for row in ids] if len(ids) and isinstance(ids[0], list) else [len(ids)]


def _warn_of_cuts(lengths: list[int], limit: int | None) -> None:
    """Warns of the rows that have more than `limit` tokens."""
    cut = {row: length for row, length in enumerate(lengths) if length > limit}
    if not cut:
        return
    dropped, tokens = sum(cut.values()) - limit * len(cut), sum(lengths)
    rows = "" if len(lengths) == 1 else f", in {len(cut)} of {len(lengths)} rows"
    counts = f"{dropped:,} of {tokens:,} tokens{rows}"
    warnings.warn(
        f"tokenizer: dropped {counts}, since truncation to max_length={limit:,} was "
        "requested; the lengthened model reads texts of any length",
        stacklevel=outer_stacklevel("transformers", "sentence_transformers"),
    )
