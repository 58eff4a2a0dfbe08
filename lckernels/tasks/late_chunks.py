"""Late chunking: the model reads a whole text, and a span's embedding is the mean of its tokens' states."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lckernels.checks import bad, integer
from lckernels.dtypes import compute_dtype
from lckernels.long.chunking import micro_batches
from lckernels.long.tokens import Tokens
from lckernels.passages import split_passages
from lckernels.sentences import check_language, sentence_boundaries, token_boundaries
from lckernels.tasks.model_lock import one_at_a_time
from lckernels.tasks.span_encoder import SpanEncoder, span_encoder
from lckernels.tasks.spans import checked_spans, coverage, span_means, span_tokens

Spans = Sequence[tuple[int, int]] | Tensor
_CALL_TOKENS = 2**16  # of texts that share a call of the encoder


@dataclass(frozen=True, eq=False)
class LateChunks:
    """The embeddings of the spans of one text.

    Attributes:
        embeddings: (num_spans, dim) float32, float64 for a float64 model; on the device of the merged states.
        spans: (start, end) of each span, characters of the text, in the order of the argument.
        num_tokens: tokens of the text, special tokens left out.
        num_chunks: chunks in which the encoder read the text.
        coverage: the share of the text's characters, white space left out, that are in a token which the
            encoder read. Nothing is truncated: below 1.0 the tokenizer has dropped characters.
    """

    embeddings: Tensor
    spans: list[tuple[int, int]]
    num_tokens: int
    num_chunks: int
    coverage: float


@one_at_a_time
def late_chunks(
    model: nn.Module,
    tokenizer: Any,
    text: str | Sequence[str],
    spans: Spans | Sequence[Spans] | None = None,
    *,
    normalize: bool = True,
    passage_tokens: int = 128,
    language: str = "en",
    **options: Any,
) -> LateChunks | list[LateChunks]:
    """The embedding of each span of a text, from states that depend on the text on both sides of it.

    The encoder reads the whole text, a long one in overlapping chunks whose states are merged; then a span is
    the mean of its tokens' states. The embedding of a passage thus depends on its neighbours too, which may
    name what the passage does not. Embed queries as before, for instance by `SentenceTransformer.encode` or
    `LongEncoder.embed`. No gradients are recorded.

    Args:
        model: in eval mode: a LongEncoder, an encoder of transformers, a SentenceTransformer, or one of these
            after `lckernels.lengthen`. What a SentenceTransformer has behind its pooling runs on each span.
        tokenizer: of the model, a fast one. None: that of a SentenceTransformer.
        text: one text, or several.
        spans: for one text its (start, end) pairs of character offsets, which may overlap and be in any
            order; for several texts such a list each. A token is part of a span if they share a character.
            Default: passages of whole sentences, as `lckernels search` cuts them.
        normalize: whether embeddings have length 1. Default: True.
        passage_tokens: the most tokens of a passage; used without `spans` only. Default: 128.
        language: ISO 639 code for finding sentences; used without `spans`, and with boundaries="sentence".
            Default: "en".
        options: arguments of LongEncoder for an encoder that is not lengthened: chunk_len, overlap, prefix
            (here also a text, which every chunk reads first), and others. By default chunk_len is all
            positions of the encoder; for a SentenceTransformer it is at most its max_seq_length, and prefix
            is its prompt for documents.

    Returns:
        A LateChunks; for several texts a list of them.

    Raises:
        TypeError: a model without an encoder, a tokenizer without offsets, a text that is no str.
        ValueError: a span that is empty, outside its text, or without a token; options that do not fit.

    Warns:
        UserWarning: a SentenceTransformer with a pooling other than the mean; a lengthened one with a prompt.

    Source: Günther et al., "Late Chunking", 2024, https://arxiv.org/abs/2409.04701.
    """
    if not isinstance(text, str | Sequence):
        raise TypeError(f"text: got {type(text).__name__}; expected a str, or a list of them")
    texts = [text] if isinstance(text, str) else list(text)
    given = _of_each(texts, spans, isinstance(text, str))
    passage_tokens = integer("passage_tokens", passage_tokens, 1)
    check_language(language)
    checked = [checked_spans(*x, one) for x, one in zip(given, texts, strict=True)]
    reader = span_encoder(model, tokenizer, options)
    tokens = [reader.tokenize(one) for one in texts]
    located = [
        _passages(one, read.offsets, language, passage_tokens)
        if pairs is None
        else (pairs, span_tokens(name, pairs, one, read.offsets))
        for (name, _), pairs, one, read in zip(given, checked, texts, tokens, strict=True)
    ]
    results: dict[int, LateChunks] = {}
    with torch.no_grad():
        for i, states, num_chunks in _read(reader, texts, tokens, language):
            pairs, ranges = located[i]
            embeddings = reader.embeddings(span_means(states, ranges))
            embeddings = embeddings.to(compute_dtype(embeddings.dtype))
            results[i] = LateChunks(
                embeddings=F.normalize(embeddings, dim=-1) if normalize else embeddings,
                spans=[(start, end) for start, end in pairs.tolist()],
                num_tokens=len(tokens[i].offsets),
                num_chunks=num_chunks,
                coverage=coverage(texts[i], tokens[i].offsets),
            )
    found = [results[i] for i in range(len(texts))]
    return found[0] if isinstance(text, str) else found


def _of_each(texts: list[Any], spans: Any, single: bool) -> list[tuple[str, Any]]:
    """For each text the name of its spans, for messages, and its spans or None."""
    for i, one in enumerate(texts):
        if not isinstance(one, str):
            raise TypeError(f"text[{i}]: got {type(one).__name__}; expected a str, or a list of them")
    if single or spans is None:
        return [("spans", spans)] * len(texts)
    spans = list(spans)
    if len(spans) != len(texts):
        raise bad("spans", f"{len(spans)} lists", f"expected one for each of {len(texts)} texts")
    return [(f"spans[{i}]", of_text) for i, of_text in enumerate(spans)]


def _passages(text: str, offsets: Tensor, language: str, passage_tokens: int) -> tuple[Tensor, Tensor]:
    """Passages of whole sentences, (num_passages, 2) each: their characters and their tokens."""
    if not len(offsets):
        return offsets.reshape(0, 2), offsets.reshape(0, 2)
    passages = split_passages(text, offsets, language, passage_tokens)
    return passages.chars, torch.stack([passages.tokens[:-1], passages.tokens[1:]], dim=1)


def _read(
    reader: SpanEncoder, texts: list[str], tokens: list[Tokens], language: str
) -> Iterator[tuple[int, Tensor, int]]:
    """The index of each text, its states (num_tokens, dim), and the number of its chunks."""
    encoder = reader.encoder
    empty = torch.zeros(0, encoder.config.hidden_size, device=encoder.output_device or encoder.device)
    yield from ((i, empty, 0) for i, read in enumerate(tokens) if not len(read.offsets))
    lengths = {i: read.input_ids.shape[1] for i, read in enumerate(tokens) if len(read.offsets)}
    order = sorted(lengths, key=lengths.__getitem__, reverse=True)
    for first, last in micro_batches([lengths[i] for i in order], _CALL_TOKENS) if order else ():
        part = order[first:last]
        cuts = [_sentence_boundaries(reader, texts[i], tokens[i], language) for i in part]
        cuts = None if None in cuts else cuts
        rows = [tokens[i].input_ids[0] for i in part]
        states = encoder(input_ids=rows, sentence_boundaries=cuts, return_dict=True).last_hidden_state
        for j, i in enumerate(part):
            num_chunks = encoder.num_chunks(lengths[i], None if cuts is None else [cuts[j]])
            yield i, states[j, tokens[i].leading :][: len(tokens[i].offsets)], num_chunks


def _sentence_boundaries(reader: SpanEncoder, text: str, tokens: Tokens, language: str) -> list[int] | None:
    """The columns of the text's row at which a sentence begins; None if the chunks do not depend on them."""
    if reader.encoder.boundaries != "sentence":
        return None
    cuts = token_boundaries(tokens.offsets, sentence_boundaries(text, language))
    return [cut + tokens.leading for cut in cuts]
