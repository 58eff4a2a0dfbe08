"""States of spans, of entities and of pairs of entities, from the merged states of a whole text."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lckernels.checks import bad, floating, integers, tensor
from lckernels.dtypes import compute_dtype
from lckernels.tasks.relation_extraction.mentions import EntitySpans, mentions_of
from lckernels.tasks.spans import checked_spans, span_means, span_tokens, token_index

HOW = ("mean", "first", "max", "logsumexp")
_MOST_PAIRS = 10_000_000  # of all entities of a text, 160 MB of indices


class Pairs(NamedTuple):
    """States of pairs of entities.

    Attributes:
        head: (num_pairs, dim), the state of the first entity of each pair.
        tail: (num_pairs, dim), the state of the second one.
        index: (num_pairs, 2) int64 on the CPU, the entities of each pair.
    """

    head: Tensor
    tail: Tensor
    index: Tensor


def span_states(
    states: Tensor,
    offsets: Tensor | Sequence[tuple[int, int]],
    spans: Tensor | Sequence[tuple[int, int]],
    how: str = "mean",
    *,
    text: str | None = None,
) -> Tensor:
    """One state per span of a text, from the states of the text's tokens; differentiable.

    A token is part of a span if they share a character. A span may cross the edges of the chunks in which the
    text was read, since `states` is one sequence.

    Args:
        states: (num_tokens, dim), any float dtype: of a whole text, as LongEncoder merges them.
        offsets: (num_tokens, 2) integers, the characters of each token, as a fast tokenizer returns them with
            return_offsets_mapping=True; (0, 0) for special tokens, which are part of no span.
        spans: (num_spans, 2) integers, (start, end) characters of the text, in any order.
        how: "mean" (default), "max" or "logsumexp" of the tokens of a span, or its "first" one's state.
        text: the characters; white space at the ends of a span then does not count. Default: it does.

    Returns:
        (num_spans, dim) float32; float64 for float64 states.

    Raises:
        TypeError: states that are no tensor.
        ValueError: shapes that do not fit, another `how`, a span that is empty, outside the text, or without
            a token.
    """
    offsets = _checked(states, offsets, how)
    pairs = checked_spans("spans", spans, text)
    if pairs is None:
        raise bad("spans", None, "expected pairs (start, end) of character offsets")
    return pooled(states, span_tokens("spans", pairs, text, offsets), how)


def entity_states(
    states: Tensor,
    offsets: Tensor | Sequence[tuple[int, int]],
    entities: Sequence[EntitySpans],
    how: str = "mean",
    *,
    text: str | None = None,
) -> Tensor:
    """One state per entity: the logsumexp of the states of its mentions, as in ATLOP; differentiable.

    ATLOP takes the state of a marker before each mention: how="first", with spans that begin with the marker.

    Args:
        states: as in `span_states`.
        offsets: as in `span_states`.
        entities: for each the list of its mentions, (start, end) characters or spans of `lckernels.tasks`;
            one span is an entity with one mention.
        how: the state of a mention, as in `span_states`.
        text: as in `span_states`.

    Returns:
        (num_entities, dim) float32; float64 for float64 states.

    Raises:
        TypeError: states that are no tensor.
        ValueError: as of `span_states`; an entity without a mention.

    Source: Zhou et al., "Document-Level Relation Extraction with Adaptive Thresholding and Localized Context
        Pooling", 2021, https://arxiv.org/abs/2010.11304.
    """
    offsets = _checked(states, offsets, how)
    mentions = mentions_of("entities", entities)
    ranges = [mention_tokens(f"entities[{i}]", of, text, offsets) for i, of in enumerate(mentions)]
    return pooled_entities(states, ranges, how)


def mention_tokens(name: str, mentions: list[tuple[int, int]], text: str | None, offsets: Tensor) -> Tensor:
    """(num_mentions, 2) int64, the tokens of each mention of one entity; errors of `checked_spans`."""
    return span_tokens(name, checked_spans(name, mentions, text), text, offsets)


def pooled_entities(states: Tensor, ranges: Sequence[Tensor], how: str) -> Tensor:
    """`entity_states` of entities whose mentions have these tokens."""
    if not ranges:
        return pooled(states, torch.zeros(0, 2, dtype=torch.int64, device="cpu"), how)
    ends = torch.tensor([len(tokens) for tokens in ranges], device="cpu").cumsum(0)
    of_mentions = pooled(states, torch.cat(list(ranges)), how)
    return pooled(of_mentions, torch.stack([ends - ends.diff(prepend=ends[:1] * 0), ends], 1), "logsumexp")


def pair_states(entities: Tensor, pairs: Tensor | Sequence[tuple[int, int]] | None = None) -> Pairs:
    """The states of the head and of the tail of each pair of entities; differentiable.

    Args:
        entities: (num_entities, dim), any float dtype.
        pairs: (num_pairs, 2) integers, head and tail. Default: all ordered pairs of two entities, whose
            number is num_entities * (num_entities - 1); at most 10 million.

    Raises:
        TypeError: entities that are no tensor.
        ValueError: entities of another shape; a pair with an entity that does not exist; more entities than
            the default allows, 3,162.
    """
    tensor("entities", entities, 2, "(num_entities, dim)")
    index = checked_pairs(pairs, len(entities))
    head, tail = index.to(entities.device).unbind(1)
    return Pairs(entities[head], entities[tail], index)


def checked_pairs(
    pairs: Tensor | Sequence[tuple[int, int]] | None, num_entities: int, name: str = "pairs"
) -> Tensor:
    """(num_pairs, 2) int64 on the CPU; None for all ordered ones. Raises ValueError as `pair_states`."""
    if pairs is None:
        number = num_entities * max(num_entities - 1, 0)
        if number > _MOST_PAIRS:
            got = f"None for {num_entities:,} entities, which have {number:,} ordered pairs"
            raise bad("pairs", got, f"expected the pairs to read; None allows {_MOST_PAIRS:,} pairs")
        k = torch.arange(number, device="cpu")
        head = k // max(num_entities - 1, 1)
        tail = k % max(num_entities - 1, 1)
        return torch.stack([head, tail + (tail >= head)], dim=1)
    expected = f"expected pairs (head, tail) of numbers below {num_entities}, the number of entities"
    index = integers(name, pairs, 2, expected=expected)
    if not len(index):
        return index.new_zeros(0, 2)
    if index.shape[1] != 2:
        raise bad(name, f"shape {tuple(index.shape)}", expected)
    for i in ((index < 0) | (index >= num_entities)).any(1).nonzero().flatten().tolist()[:1]:
        raise bad(f"{name}[{i}]", tuple(index[i].tolist()), expected)
    return index


def pooled(states: Tensor, tokens: Tensor, how: str) -> Tensor:
    """One row per range of rows.

    Args:
        states: (num_rows, dim), any float dtype.
        tokens: (num_ranges, 2) int64 on the CPU; ranges are not empty and may overlap.
        how: one of HOW.

    Returns:
        (num_ranges, dim) float32; float64 for float64 states.
    """
    if how == "mean":
        return span_means(states, tokens)
    device, dtype = states.device, compute_dtype(states.dtype)
    if how == "first":
        return states[tokens[:, 0].to(device)].to(dtype)
    index, _ = token_index(tokens)
    of_row = torch.arange(len(tokens), device="cpu").repeat_interleave(tokens[:, 1] - tokens[:, 0])
    rows, of_row = states[index.to(device)].to(dtype), of_row.to(device)
    top = rows.new_full((len(tokens), rows.shape[1]), -torch.inf)
    top = top.scatter_reduce(0, of_row[:, None].expand_as(rows), rows, "amax")
    if how == "max":
        return top
    top = top.detach()
    return torch.zeros_like(top).index_add(0, of_row, (rows - top[of_row]).exp()).log() + top


def check_how(how: str) -> None:
    """Raises ValueError for another name than those of HOW."""
    if how not in HOW:
        raise bad("how", repr(how), f"allowed are {', '.join(HOW)}")


def _checked(states: Tensor, offsets: Tensor | Sequence[tuple[int, int]], how: str) -> Tensor:
    """The offsets (num_tokens, 2) int64 on the CPU, those of special tokens set between their neighbours'."""
    tensor("states", states, 2, "(num_tokens, dim)")
    floating("states", states)
    check_how(how)
    pairs = integers("offsets", offsets, 2, expected="expected (start, end) for each token")
    if pairs.shape != (len(states), 2) and len(pairs) + len(states):
        raise bad("offsets", f"shape {tuple(pairs.shape)}", f"expected ({len(states)}, 2), a row per state")
    if not len(pairs):
        return pairs.new_zeros(0, 2)
    before = pairs[:, 1].cummax(0).values[:, None]
    return torch.where((pairs[:, :1] == pairs[:, 1:]), before, pairs)
