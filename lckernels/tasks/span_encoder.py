"""The encoder of a model for the states of spans, and what a SentenceTransformer computes of their means."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lckernels.callers import outer_stacklevel
from lckernels.checks import bad
from lckernels.inner_forward import outer_forward
from lckernels.long.encoder import LongEncoder
from lckernels.long.lengthened import LengthenedForward
from lckernels.long.parts import find_parts
from lckernels.long.readers import longest_chunk
from lckernels.long.tokens import Tokens, count_special_tokens, prefix_ids, tokenize
from lckernels.prompts import num_virtual_tokens
from lckernels.tasks.documents import check_eval_mode, check_tokenizer

_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the names that `encode_document` looks for


@dataclass(frozen=True, eq=False)
class SpanEncoder:
    """An encoder with its tokenizer, and the modules that a SentenceTransformer has behind its pooling.

    Attributes:
        encoder: reads rows of any length.
        tokenizer: a fast tokenizer.
        name: of the model's class, for messages.
        rest: modules from a mean to an embedding; empty for other models.
        truncate_dim: numbers of an embedding that are kept; None: all.
    """

    encoder: LongEncoder
    tokenizer: Any
    name: str
    rest: Sequence[nn.Module] = ()
    truncate_dim: int | None = None

    def tokenize(self, text: str) -> Tokens:
        """The tokens of a text of any length; nothing is truncated."""
        return tokenize(self.tokenizer, text, self.name)

    def embeddings(self, means: Tensor) -> Tensor:
        """(num_spans, dim) means of states -> (num_spans, dim of the embeddings)."""
        features = {"sentence_embedding": means}
        for module in self.rest:
            x = features["sentence_embedding"]
            weight = next(module.parameters(), x)
            features = module({**features, "sentence_embedding": x.to(weight.device, weight.dtype)})
        return features["sentence_embedding"][:, : self.truncate_dim]


def span_encoder(model: nn.Module, tokenizer: Any, options: dict[str, Any]) -> SpanEncoder:
    """The encoder in a model.

    Args:
        model: a LongEncoder, an encoder of transformers, a SentenceTransformer; lengthened or not.
        tokenizer: of the model; None for that of a SentenceTransformer.
        options: arguments of the LongEncoder around an encoder that is not lengthened.

    Raises:
        TypeError: another model; a tokenizer that is missing, or without offsets.
        ValueError: options for a model that has its own; a model in training mode; special tokens that
            differ from the tokenizer's.

    Warns:
        UserWarning: a SentenceTransformer with a pooling other than the mean; a lengthened one with a prompt.
    """
    name, rest = type(model).__name__, ()
    if isinstance(model, LongEncoder):
        encoder = model
    else:
        parts = find_parts(model)
        if num_virtual_tokens(model):
            hint = "LongEncoder(model) supports those of prefix tuning"
            raise TypeError(f"model: got {name} with virtual tokens, which the encoder in it lacks; {hint}")
        tokenizer = parts.tokenizer if tokenizer is None else tokenizer
        rest = _behind_pooling(model) if parts.readers else ()
        encoder = _lengthened(parts.encoder, name) if parts.is_lengthened else None
        if parts.readers and "prefix" not in options and (prompt := document_prompt(model)).strip():
            if encoder is None:
                options = {**options, "prefix": prompt}
            else:
                hint = f"{prompt!r} is not read; unlengthen the model, then every chunk reads it"
                warnings.warn(f"model: its prompt for documents {hint}", stacklevel=outer_stacklevel())
    check_tokenizer(tokenizer)
    special_tokens = count_special_tokens(tokenizer, name)
    if encoder is None:
        options = _with_defaults(options, parts.encoder, parts.readers, tokenizer)
        encoder = LongEncoder(parts.encoder, special_tokens=special_tokens, **options)
    elif options:
        got = f"{', '.join(options)} for {name}, which has its own"
        raise bad("options", got, "expected none, or an encoder that is not lengthened")
    if encoder.special_tokens != special_tokens:
        got = f"{special_tokens} special tokens of the tokenizer"
        raise bad("tokenizer", got, f"special_tokens of the encoder are {encoder.special_tokens}")
    check_eval_mode(name, encoder.model, *rest)
    return SpanEncoder(encoder, tokenizer, name, rest, getattr(model, "truncate_dim", None))


def _lengthened(encoder: nn.Module, name: str) -> LongEncoder:
    """The LongEncoder of an encoder that `lengthen` has changed, with its fixed prefix if there is one."""
    _, forward = outer_forward(encoder, LengthenedForward)
    found = forward.prefixed or forward.encoder
    if found.joints is not None:
        got = f"{name} lengthened with joints, rows that are no tokens"
        raise bad("model", got, "expected one that is lengthened without joints")
    return found


def _with_defaults(
    options: dict[str, Any], encoder: nn.Module, readers: Sequence[nn.Module], tokenizer: Any
) -> dict[str, Any]:
    """The options of a LongEncoder; of a SentenceTransformer chunk_len is at most its max_seq_length."""
    options = dict(options)
    found = longest_chunk(encoder, readers)
    if found is not None and options.get("chunk_len") is None:
        options["chunk_len"], _ = found
    if isinstance(options.get("prefix"), str):
        options["prefix"] = prefix_ids(tokenizer, options["prefix"])
    return options


def _behind_pooling(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules of a SentenceTransformer behind its pooling; none for its first module alone."""
    modules = tuple(model) if isinstance(model, nn.Sequential) else ()
    kinds = [type(module).__name__ for module in modules]
    if not modules:
        return ()
    if kinds[1:2] != ["Pooling"]:
        expected = "expected a pooling behind the encoder"
        raise TypeError(f"model: got {type(model).__name__} of {', '.join(kinds)}; {expected}")
    pooling = modules[1]
    mode = pooling.pooling_mode if hasattr(pooling, "pooling_mode") else pooling.get_pooling_mode_str()
    if mode != "mean":
        hint = "spans are pooled by their mean, for which it was not trained"
        warnings.warn(f"model: its pooling is {mode!r}; {hint}", stacklevel=outer_stacklevel())
    return modules[2:]


def document_prompt(model: nn.Module) -> str:
    """The prompt with which a SentenceTransformer encodes a document; empty without one."""
    prompts = getattr(model, "prompts", None) or {}
    names = (*_DOCUMENT_PROMPTS, getattr(model, "default_prompt_name", None))
    return next((prompts[name] for name in names if name in prompts), "")
