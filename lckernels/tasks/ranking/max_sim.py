"""MaxSim, the score of ColBERT's kind: for each token of a query the most similar token of a document."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.checks import bad, boolean, floating, integer, tensor
from lckernels.dtypes import compute_dtype


class MaxSim(NamedTuple):
    """The score of one document.

    Attributes:
        score: scalar, the sum of `similarities`.
        similarities: (num_query_tokens,), the largest similarity of each token of the query.
        tokens: (num_query_tokens,) int64, the row of the document that has it; the first one of a tie.
    """

    score: Tensor
    similarities: Tensor
    tokens: Tensor


def max_sim(
    query_states: Tensor,
    document_states: Tensor | Sequence[Tensor],
    *,
    normalize: bool = False,
    block: int = 8192,
) -> MaxSim | list[MaxSim]:
    """The sum over a query's tokens of the largest similarity to a token of a document.

    The similarities of one block of the document are in memory at once, never those of all its tokens.
    Gradients reach the query's states and the document's at the maxima.

    Args:
        query_states: (num_query_tokens, dim), any float dtype.
        document_states: (num_tokens, dim) of one document, at least one token; or a list of such.
        normalize: whether states are divided by their length, for cosine similarities. Default: False.
        block: tokens of a document whose similarities are computed at once.

    Returns:
        A MaxSim of float32, float64 for float64 states; for a list of documents a list.

    Raises:
        TypeError: states that are no tensors.
        ValueError: shapes that do not fit, a document without tokens.

    Source: Khattab and Zaharia, "ColBERT", 2020, https://arxiv.org/abs/2004.12832.
    """
    single = isinstance(document_states, Tensor)
    documents = [document_states] if single else list(document_states)
    tensor("query_states", query_states, 2, "(num_query_tokens, dim)")
    floating("query_states", query_states)
    boolean("normalize", normalize)
    block = integer("block", block, 1)
    for i, states in enumerate(documents):
        name = "document_states" if single else f"document_states[{i}]"
        tensor(name, states, 2, "(num_tokens, dim)")
        floating(name, states)
        if not len(states) or states.shape[1] != query_states.shape[1]:
            expected = f"expected (num_tokens, {query_states.shape[1]}), num_tokens at least 1"
            raise bad(name, f"shape {tuple(states.shape)}", expected)
    query = _prepared(query_states, normalize)
    found = [_of_document(query, states, normalize, block) for states in documents]
    return found[0] if single else found


def _of_document(query: Tensor, states: Tensor, normalize: bool, block: int) -> MaxSim:
    with torch.no_grad():
        tokens = _argmax(query, states, normalize, block)
    similarities = (query * _prepared(states[tokens], normalize)).sum(1)
    return MaxSim(similarities.sum(), similarities, tokens)


def _argmax(query: Tensor, states: Tensor, normalize: bool, block: int) -> Tensor:
    """(num_query_tokens,) int64, the most similar row of the states."""
    best = query.new_full((len(query),), -torch.inf)
    tokens = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    for start in range(0, len(states), block):
        similarities = query @ _prepared(states[start : start + block], normalize).T
        values, columns = similarities.max(1)
        better = ~(values <= best) & ~best.isnan()  # the first NaN is kept, as `max` keeps it
        best = torch.where(better, values, best)
        tokens = torch.where(better, columns + start, tokens)
    return tokens


def _prepared(states: Tensor, normalize: bool) -> Tensor:
    states = states.to(compute_dtype(states.dtype))
    return F.normalize(states, dim=1) if normalize else states
