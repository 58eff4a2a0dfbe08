"""Ranking of texts of any length for a query, by a cross-encoder whose every chunk reads the query."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lckernels.callers import outer_stacklevel
from lckernels.checks import bad, integer
from lckernels.long.parts import Parts, find_parts
from lckernels.long.readers import longest_chunk
from lckernels.tasks.documents import given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.reader import SEQUENCE_CLASSIFICATION, DocumentReader

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Ranked:
    """A text in its place of a ranking.

    Attributes:
        index: its place among the texts that were given.
        score: how relevant it is; higher is more.
        coverage: the share of its characters, white space left out, that are in a token that was read; below
            1 with `limit`, or where the tokenizer dropped characters.
        num_tokens: its tokens that were read.
    """

    index: int
    score: float
    coverage: float
    num_tokens: int


AnyRanked = TypeVar("AnyRanked", bound=Ranked)


@one_at_a_time
def rank(
    model: nn.Module,
    tokenizer: Any,
    query: str,
    texts: str | Sequence[str],
    top_k: int | None = None,
    *,
    activation: Activation | None = None,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> list[Ranked]:
    """The texts, best first, by the score of a cross-encoder for (query, text).

    Every chunk of a text reads the query before it, the chunks' states are merged, and the head runs once per
    text. A pair of one chunk has the model's own score.

    Args:
        model: in eval mode: a model with a head for sequence classification, of one label (relevance) or two
            (the second is relevance), or a CrossEncoder of sentence-transformers; lengthened or not.
        tokenizer: of the model, a fast one; None for that of a CrossEncoder.
        query: a text, a question, or a history of what someone read; it fits in a chunk together with a part
            of the text.
        texts: of any length.
        top_k: how many texts are returned. Default: all.
        activation: from logits (num_texts,) to scores, for a model of one label. Default: as CrossEncoder
            does, its own, or that of the model's config, else the sigmoid. Of two labels the score is the
            probability of the second one.
        chunk_len: tokens of a chunk, special tokens and query included. Default: the model's positions, of a
            CrossEncoder at most its max_seq_length.
        overlap: tokens that neighbouring chunks share. Default: that of `lengthen`.
        batch: the most texts of a call of the model.
        progress: show a progress bar.
        limit: the most tokens of a text that are read. Default: all.

    Returns:
        A Ranked per text, best first; equal scores in the order of the texts.

    Raises:
        TypeError: a model without such a head, a tokenizer without offsets, a text that is no str.
        ValueError: an empty query or text; a model of three labels or more; a query that fills a chunk; a
            model in training mode; options that do not fit.

    Warns:
        UserWarning: a CrossEncoder with a default prompt, which is not read; an activation in the config that
            is no module of torch.
    """
    query = given_query(query)
    given, single = given_texts("texts", texts)
    if top_k is not None:
        top_k = integer("top_k", top_k, 1)
    parts = find_parts(model)
    model, tokenizer, chunk_len, own = _of_cross_encoder(model, parts, tokenizer, chunk_len)
    labels = getattr(parts.model.config, "num_labels", None)
    reader = DocumentReader(
        model, tokenizer, SEQUENCE_CLASSIFICATION, chunk_len=chunk_len, overlap=overlap, batch=batch,
        progress=progress, limit=limit,
    )  # fmt: skip
    if labels not in (1, 2):
        got = f"{reader.name} of {labels} labels"
        raise bad("model", got, "expected one label, relevance, or two, the second of which is relevance")
    if labels == 2 and activation is not None:
        raise bad("activation", "a function for a model of two labels", "expected None: it is the softmax")
    activation = activation or own or _of_config(parts.model.config)
    documents = reader.documents(given, first=query, name="texts", single=single)
    reader.check_room(documents, ["query"] * len(documents))
    found = []
    for document, output, row in reader.read(documents):
        score = _score(output.logits[row], activation)
        found.append(Ranked(document.index, score, document.coverage, len(document.offsets)))
    return ranking(found, top_k)


def given_query(query: Any) -> str:
    """The query. Raises TypeError for one that is no str, ValueError for white space."""
    if not isinstance(query, str):
        raise TypeError(f"query: got {type(query).__name__}; expected a str")
    given_texts("query", query)
    return query


def ranking(found: Iterable[AnyRanked], top_k: int | None) -> list[AnyRanked]:
    """Best first, equal scores by their index; at most top_k."""
    return sorted(found, key=lambda one: (-one.score, one.index))[:top_k]


def _of_cross_encoder(
    model: nn.Module, parts: Parts, tokenizer: Any, chunk_len: int | None
) -> tuple[nn.Module, Any, int | None, Activation | None]:
    """What DocumentReader takes, and the model's own activation; of a CrossEncoder what is in it."""
    if not parts.readers:
        return model, tokenizer, chunk_len, None
    name = type(model).__name__
    if not hasattr(model, "activation_fn"):
        raise TypeError(f"model: got {name}; expected a CrossEncoder, or a model for sequence classification")
    behind = [type(module).__name__ for module in list(model)[1:]] if isinstance(model, nn.Sequential) else []
    if behind:
        got = f"{name} with {', '.join(behind)} behind its model"
        raise TypeError(f"model: got {got}; expected one whose model has the head")
    prompt = getattr(model, "default_prompt_name", None)
    if prompt is not None:
        warnings.warn(f"model: its default prompt {prompt!r} is not read", stacklevel=outer_stacklevel())
    if chunk_len is None and not parts.is_lengthened:
        found = longest_chunk(parts.encoder, parts.readers)
        chunk_len = None if found is None else found[0]
    return parts.model, parts.tokenizer if tokenizer is None else tokenizer, chunk_len, model.activation_fn


def _of_config(config: Any) -> Activation:
    """The activation that CrossEncoder reads in a config of transformers; the sigmoid without one."""
    stored = getattr(config, "sentence_transformers", None) or {}
    path = stored.get("activation_fn") or getattr(config, "sbert_ce_default_activation_function", None)
    if path is None:
        return nn.Sigmoid()
    kind = getattr(nn, path.rpartition(".")[2], None) if path.startswith("torch.") else None
    if kind is None:
        hint = "the sigmoid is used; pass activation for another"
        warnings.warn(f"model: activation {path!r} of its config; {hint}", stacklevel=outer_stacklevel())
        return nn.Sigmoid()
    return kind()


def _score(logits: Tensor, activation: Activation) -> float:
    """Of the logits (num_labels,) of one text."""
    logits = logits.float() if logits.dtype != torch.float64 else logits
    return (activation(logits)[0] if len(logits) == 1 else logits.softmax(0)[1]).item()
