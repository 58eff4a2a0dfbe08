"""Relations between the entities of a text of any length, however far apart they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.tasks.documents import Document, given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.relation_extraction.mentions import EntitySpans, mentions_of
from lckernels.tasks.relation_extraction.span_states import (
    check_how,
    checked_pairs,
    mention_tokens,
    pair_states,
    pooled_entities,
)
from lckernels.tasks.state_reader import StateReader

_PAIRS = 256  # whose bilinear products are in memory at once


@dataclass(frozen=True)
class Relation:
    """A relation between two entities.

    Attributes:
        head: the place of the first entity among those that were given.
        tail: the place of the second one.
        label: name of the relation.
        score: the sigmoid of the relation's logit minus the pair's threshold: above 0.5 it holds.
    """

    head: int
    tail: int
    label: str
    score: float


@dataclass(frozen=True)
class Relations:
    """The relations of one text.

    Attributes:
        relations: those that hold, best first.
        coverage: the share of the text's characters, white space left out, that are in a token that was read;
            below 1 with `limit`, or where the tokenizer dropped characters.
        num_tokens: tokens of the text that were read.
        num_pairs: pairs of entities that the head was run on.
    """

    relations: list[Relation]
    coverage: float
    num_tokens: int
    num_pairs: int


@one_at_a_time
def relations(
    model: nn.Module,
    tokenizer: Any,
    text: str | Sequence[str],
    entities: Sequence[EntitySpans] | Sequence[Sequence[EntitySpans]],
    head: nn.Module,
    *,
    labels: Sequence[str] | None = None,
    pairs: Any = None,
    how: str = "mean",
    threshold: float = 0.5,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> Relations | list[Relations]:
    """The relations between entities of a text: the encoder reads the whole text, the head runs once a pair.

    The states of the entities are those of the merged sequence, so a pair may be in different chunks. No
    gradients are recorded; to train a head, call `entity_states`, `pair_states` and the head.

    Args:
        model: in eval mode: a LongEncoder, an encoder of transformers or a SentenceTransformer; lengthened or
            not.
        tokenizer: of the model, a fast one.
        text: one text, or several.
        entities: of one text: for each entity its span, (start, end) characters or a result of `tag`, or the
            list of its mentions. For several texts such a list each.
        head: in eval mode: a RelationHead, or a module with its call: states (num_pairs, dim) of heads and of
            tails -> an output with `logits` (num_pairs, 1 + num_relations), the pair's threshold first.
        labels: names of the relations, in the order of the logits. Default: "0", "1" and so on.
        pairs: the pairs (head, tail) of entities to try, places in `entities`; for several texts a list each.
            Default: all ordered pairs of two entities, at most 10 million (3,162 entities).
        how: the state of a mention, as in `span_states`.
        threshold: the least score of a relation that is returned. Default: 0.5, where the logit equals the
            pair's threshold.
        chunk_len: tokens of a chunk, special tokens included. Default: the model's positions.
        overlap: tokens that neighbouring chunks share. Default: that of LongEncoder.
        batch: the most texts of a call of the model.
        progress: show a progress bar.
        limit: the most tokens of a text that are read. Default: all.

    Returns:
        A Relations; for several texts a list of them.

    Raises:
        TypeError: a model without an encoder, a tokenizer without offsets, a text that is no str.
        ValueError: an empty text; an entity outside what is read; a pair that does not exist; labels that do
            not fit the head; a model or a head in training mode; options that do not fit.
    """
    texts, single = given_texts("text", text)
    each_entities = _of_each("entities", entities, len(texts), single)
    each_pairs = _of_each("pairs", pairs, len(texts), single or pairs is None)
    check_how(how)
    _check_head(head)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise bad("threshold", repr(threshold), "expected a number from 0 to 1")
    mentions = [mentions_of(name, of_text) for name, of_text in each_entities]
    tried = [
        checked_pairs(of_text, len(of), name)
        for (name, of_text), of in zip(each_pairs, mentions, strict=True)
    ]
    reader = StateReader(
        model, tokenizer, chunk_len=chunk_len, overlap=overlap, batch=batch, progress=progress, limit=limit
    )
    documents = reader.documents(texts, single=single)
    ranges = [
        _ranges(name, of_text, document)
        for (name, _), of_text, document in zip(each_entities, mentions, documents, strict=True)
    ]
    results: dict[int, Relations] = {}
    with torch.no_grad():
        for document, states in reader.read(documents):
            i = document.index
            of_entities = pooled_entities(states, ranges[i], how)
            found = _relations(of_entities, tried[i], head, labels, threshold)
            results[i] = Relations(found, document.coverage, len(document.offsets), len(tried[i]))
    ordered = [results[i] for i in range(len(texts))]
    return ordered[0] if single else ordered


def _of_each(name: str, given: Any, count: int, single: bool) -> list[tuple[str, Any]]:
    """For each text the name of its part of an argument, for messages, and the part."""
    if single:
        return [(name, given)] * count
    if not isinstance(given, Sequence) or len(given) != count:
        got = f"{len(given)} lists" if isinstance(given, Sequence) else type(given).__name__
        raise bad(name, got, f"expected a list for each of {count} texts")
    return [(f"{name}[{i}]", of_text) for i, of_text in enumerate(given)]


def _check_head(head: Any) -> None:
    if not isinstance(head, nn.Module):
        raise TypeError(f"head: got {type(head).__name__}; expected a module, such as a RelationHead")
    if head.training:
        raise bad("head", f"{type(head).__name__} in training mode", "expected head.eval()")


def _ranges(name: str, mentions: list[list[tuple[int, int]]], document: Document) -> list[Tensor]:
    """The tokens of the mentions of each entity of a document."""
    end = int(document.offsets[:, 1].max())
    ranges = []
    for i, of_entity in enumerate(mentions):
        if document.coverage < 1 and any(end < stop <= len(document.text) for _, stop in of_entity):
            raise bad(f"{name}[{i}]", of_entity, f"expected mentions in what is read, {end} characters")
        ranges.append(mention_tokens(f"{name}[{i}]", of_entity, document.text, document.offsets))
    return ranges


def _relations(
    entities: Tensor, pairs: Tensor, head: nn.Module, labels: Sequence[str] | None, threshold: float
) -> list[Relation]:
    """The relations that hold between entities (num_entities, dim), best first."""
    found = []
    for part in pairs.split(_PAIRS) if len(pairs) else ():
        of_pairs = pair_states(entities, part)
        logits = head(of_pairs.head, of_pairs.tail).logits.float()
        if labels is not None and len(labels) != logits.shape[1] - 1:
            raise bad("labels", f"{len(labels)} names", f"the head has {logits.shape[1] - 1} relations")
        scores = (logits[:, 1:] - logits[:, :1]).sigmoid().cpu()
        for row, column in (scores >= threshold).nonzero().tolist():
            label = str(column) if labels is None else labels[column]
            first, second = part[row].tolist()
            found.append(Relation(first, second, label, scores[row, column].item()))
    return sorted(found, key=lambda relation: -relation.score)
