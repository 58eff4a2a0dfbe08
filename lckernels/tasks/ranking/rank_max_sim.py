"""Ranking of texts of any length by MaxSim over the states of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lckernels.checks import boolean, integer
from lckernels.long.encoder import LongEncoder
from lckernels.long.parts import find_parts
from lckernels.tasks.documents import given_texts
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.ranking.max_sim import MaxSim, max_sim
from lckernels.tasks.ranking.rank import Ranked, given_query, ranking
from lckernels.tasks.ranking.token_rows import EncoderRows, MultiVectorRows, TokenRows
from lckernels.tasks.results import Span


@dataclass(frozen=True)
class Match(Span):
    """The token of a text that is most similar to a token of the query.

    `score` is their similarity. A special token has no characters: start and end are 0, text is empty.

    Attributes:
        query: the characters of the query's token; empty for a special token or an expansion.
    """

    query: str


@dataclass(frozen=True)
class RankedMatches(Ranked):
    """A text in its place of a ranking, with the tokens that its score comes from.

    Attributes:
        matches: one per token of the query that is compared, in their order.
    """

    matches: list[Match]


@one_at_a_time
def rank_max_sim(
    model: nn.Module,
    tokenizer: Any,
    query: str,
    texts: str | Sequence[str],
    top_k: int | None = None,
    *,
    normalize: bool = True,
    chunk_len: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    progress: bool = False,
    limit: int | None = None,
) -> list[RankedMatches]:
    """The texts, best first, by MaxSim: for each token of the query the most similar token of the whole text.

    The states of a text are one merged sequence, in which each token is once, whatever the overlap of chunks.
    Of an encoder they are compared without special tokens, as cosine similarities; of a MultiVectorEncoder
    the rows are those that it scores itself, so the score is that of its `similarity`.

    Args:
        model: in eval mode: an encoder of transformers or a LongEncoder, or a MultiVectorEncoder of
            sentence-transformers 6; lengthened or not.
        tokenizer: of the model, a fast one; None for that of a MultiVectorEncoder.
        query: any text.
        texts: of any length.
        top_k: how many texts are returned. Default: all.
        normalize: whether states of an encoder are divided by their length. Default: True. A
            MultiVectorEncoder has a module for it.
        chunk_len: tokens of a chunk, special tokens included. Default: the model's positions.
        overlap: tokens that neighbouring chunks share. Default: that of LongEncoder.
        batch: the most texts of a call of the model.
        progress: show a progress bar.
        limit: the most tokens of a text that are read. Default: all.

    Returns:
        A RankedMatches per text, best first; equal scores in the order of the texts.

    Raises:
        TypeError: another model, a tokenizer without offsets, a text that is no str.
        ValueError: an empty query or text; a model in training mode; options that do not fit.
    """
    query = given_query(query)
    given, _ = given_texts("texts", texts)
    boolean("normalize", normalize)
    if top_k is not None:
        top_k = integer("top_k", top_k, 1)
    options = {
        "chunk_len": chunk_len, "overlap": overlap, "batch": batch, "progress": progress, "limit": limit,
    }  # fmt: skip
    is_multi_vector = any(kind.__name__ == "MultiVectorEncoder" for kind in type(model).__mro__)
    if not is_multi_vector and not isinstance(model, LongEncoder) and find_parts(model).readers:
        expected = "expected a MultiVectorEncoder, or the encoder in it"
        raise TypeError(f"model: got {type(model).__name__}, trained for one vector per text; {expected}")
    reader = (MultiVectorRows if is_multi_vector else EncoderRows)(model, tokenizer, **options)
    of_query = reader.query(query)
    is_mean = getattr(model, "similarity_fn_name", None) == "meanmaxsim"
    found = []
    for rows in reader.documents(given):
        similar = max_sim(of_query.states, rows.states, normalize=normalize and not is_multi_vector)
        score = similar.score.item() / (len(of_query.states) if is_mean else 1)
        matches = _matches(query, of_query, given[rows.index], rows, similar)
        found.append(RankedMatches(rows.index, score, rows.coverage, rows.num_tokens, matches))
    return ranking(found, top_k)


def _matches(query: str, of_query: TokenRows, text: str, rows: TokenRows, similar: MaxSim) -> list[Match]:
    spans = rows.offsets[similar.tokens.cpu()].tolist()
    of_tokens = zip(of_query.offsets.tolist(), spans, similar.similarities.tolist(), strict=True)
    return [
        Match(start, end, text[start:end], score, query[first:last])
        for (first, last), (start, end), score in of_tokens
    ]
