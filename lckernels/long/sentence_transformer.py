"""A SentenceTransformer that reads texts longer than its encoder's positions."""

from typing import Any

from torch import nn

from lckernels.long.encoder import LongEncoder

# Above the length of every text, below the value that a fast tokenizer reads as "no limit" and warns of.
NO_LIMIT = 10**9


def lengthen(transformer: nn.Module, max_seq_length: int = NO_LIMIT, **options: Any) -> LongEncoder:
    """Replaces the encoder of a SentenceTransformer, or of its transformer module, by a LongEncoder.

    Args:
        transformer: a SentenceTransformer or its first module (sentence-transformers 5, 6), changed in
            place. If it was lengthened before, its LongEncoder is replaced.
        max_seq_length: texts are truncated to so many tokens, special tokens included. Default: no limit. A
            saved model has the limit from before.
        options: arguments of LongEncoder; special_tokens is read from the tokenizer unless given.

    Returns:
        The LongEncoder; its attribute `model` is the encoder from before.

    Raises:
        TypeError: another module.
    """
    expected = "expected a SentenceTransformer that begins with a Transformer module"
    if not isinstance(transformer, nn.Module):
        raise TypeError(f"transformer: got {type(transformer).__name__}; {expected}")
    module = transformer[0] if isinstance(transformer, nn.Sequential) else transformer
    # Version 6 stores the encoder in `model`, of which `auto_model` is a view; version 5 in `auto_model`.
    name = next((name for name in ("model", "auto_model") if name in module._modules), None)
    tokenizer = getattr(module, "tokenizer", None)
    if name is None or tokenizer is None:
        raise TypeError(f"transformer: got {type(module).__name__}; {expected}")
    if "special_tokens" not in options:
        mask = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        options["special_tokens"] = (mask.index(0), mask[::-1].index(0))
    inner = getattr(module, name)
    encoder = LongEncoder(inner.model if isinstance(inner, LongEncoder) else inner, **options)
    setattr(module, name, encoder)
    if not isinstance(tokenizer.save_pretrained, _SaveWithLimit):
        tokenizer.save_pretrained = _SaveWithLimit(tokenizer, tokenizer.model_max_length)
    module.max_seq_length = max_seq_length
    if hasattr(module, "can_flatten_inputs"):
        # True for a model with flash attention: texts are packed in one row without a mask.
        module.can_flatten_inputs = False
    return encoder


class _SaveWithLimit:
    """A tokenizer's save_pretrained that stores the encoder's own limit, not the raised one."""

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tokenizer = self.tokenizer
        raised, tokenizer.model_max_length = tokenizer.model_max_length, self.limit
        try:
            return type(tokenizer).save_pretrained(tokenizer, *args, **kwargs)
        finally:
            tokenizer.model_max_length = raised
