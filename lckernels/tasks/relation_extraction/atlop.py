"""`process_long_input` of ATLOP and its successors, for rows of any length."""

import reprlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad, integers, tensor
from lckernels.dtypes import compute_dtype
from lckernels.long.chunking import Chunks
from lckernels.long.encoder import LongEncoder
from lckernels.long.run import chunks_of
from lckernels.reference import weights_at
from lckernels.segments import Column

_STORED_CHUNKS = 8  # whose attention of the last layer is kept, (heads, chunk_len, chunk_len) each


def process_long_input(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    start_tokens: Sequence[int] | Tensor,
    end_tokens: Sequence[int] | Tensor,
) -> tuple[Tensor, "AttentionRows"]:
    """The states of rows of any length, and rows of their attention when they are indexed.

    It replaces the function of this name in ATLOP's `long_seq.py`, which reads 1,024 tokens at most. States
    are those of LongEncoder. The second result has the shape of the attention of the last layer, and its
    indexing `attention[i, :, token]`, but no N x N tensor exists: a row is computed where it is read.

    Args:
        model: an encoder of transformers; or a LongEncoder, whose chunk sizes are used.
        input_ids: (batch, seqlen) integers; each row begins with start_tokens and ends with end_tokens, or
            with the last of them.
        attention_mask: (batch, seqlen), 1 for tokens, 0 for padding on the right; any dtype.
        start_tokens: ids of the special tokens that begin each chunk.
        end_tokens: ids of those that end it.

    Returns:
        States (batch, seqlen, dim), rows of padding zero if a row is longer than a chunk, with gradients
        where they are enabled; and the AttentionRows.

    Raises:
        TypeError: a model that is no encoder.
        ValueError: shapes that do not fit; a row without the special tokens, or rows with unequal numbers of
            them.

    Source: Zhou et al., 2021, https://arxiv.org/abs/2010.11304.
    """
    tensor("input_ids", input_ids, 2, "(batch, seqlen)")
    tensor("attention_mask", attention_mask, 2, "(batch, seqlen)")
    if attention_mask.shape != input_ids.shape:
        got = f"shape {tuple(attention_mask.shape)}"
        raise bad("attention_mask", got, f"expected {tuple(input_ids.shape)}, as of input_ids")
    mask = attention_mask.bool()
    special_tokens = _special_tokens(input_ids, mask, start_tokens, end_tokens)
    if isinstance(model, LongEncoder):
        encoder = model
        if len(encoder.prefix) or encoder.merge != "final" or not isinstance(encoder.weights, str):
            got = "a LongEncoder with a prefix, merge='layer' or explicit weights"
            raise bad("model", got, "expected one without these")
        if encoder.special_tokens != special_tokens:
            got = f"{special_tokens} special tokens in the rows"
            raise bad("input_ids", got, f"special_tokens of the encoder are {encoder.special_tokens}")
    else:
        encoder = LongEncoder(model, special_tokens=special_tokens)
    output = encoder(input_ids=input_ids, attention_mask=mask.long(), return_dict=True)
    return output.last_hidden_state, AttentionRows(encoder, input_ids, mask.sum(1).tolist())


class AttentionRows:
    """Attention of the last layer, a row per token that is indexed; no N x N tensor exists.

    A row of token t is the mean of its rows in the chunks that contain it, with the weights that its states
    are merged with: `sum_c a_c(t) attention_c(t) / sum_c a_c(t)`, zero outside these chunks. It sums to 1. A
    chunk is run again when one of its tokens is read, with the weights of attention as an output, and 8
    chunks are kept: a row costs at most a run of each chunk that contains its token, and heads * seqlen
    numbers.

    Two tokens that no chunk contains together have no key in common but special tokens, which every chunk
    has: ATLOP's localized context of two distant entities is the states of [CLS] and [SEP] at best.

    Gradients are recorded where they are enabled; in training mode dropout differs from that of the states.

    Attributes:
        shape: (batch, heads, seqlen, seqlen), as of the tensor that ATLOP reads.
    """

    def __init__(self, encoder: LongEncoder, input_ids: Tensor, lengths: Sequence[int]) -> None:
        config = encoder.model.config
        seqlen = input_ids.shape[1]
        self.shape = torch.Size([len(input_ids), config.num_attention_heads, seqlen, seqlen])
        self._encoder, self._input_ids, self._lengths = encoder, input_ids, list(lengths)
        self._chunks = lru_cache(None)(self._chunks_of)
        self._attention = lru_cache(_STORED_CHUNKS)(self._attention_of)

    def size(self, dim: int | None = None) -> Any:
        """`shape`, or one of its numbers, as of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def __getitem__(self, key: tuple[int, slice, int]) -> Tensor:
        """(heads, seqlen) for `attention[i, :, token]`. Raises IndexError for any other index."""
        if not isinstance(key, tuple) or len(key) != 3 or key[1] != slice(None):
            raise IndexError(f"attention[{key!r}]: expected attention[row, :, token]")
        return self.rows(int(key[0]), [int(key[2])])[0]

    def rows(self, i: int, tokens: Sequence[int] | Tensor) -> Tensor:
        """The rows of several tokens.

        Args:
            i: the row of input_ids.
            tokens: (k,) integers, columns of that row.

        Returns:
            (k, heads, seqlen) float32; float64 for a float64 model; zero for padding.

        Raises:
            ValueError: a token outside the row of input_ids.
        """
        tokens = integers("tokens", tokens)
        batch, heads, seqlen = self.shape[:3]
        if not 0 <= i < batch or ((tokens < 0) | (tokens >= seqlen)).any():
            got = f"row {i}, tokens {tokens.tolist()}"
            raise bad("tokens", got, f"expected rows below {batch}, tokens below {seqlen}")
        chunks = self._chunks(i)
        dtype, device = compute_dtype(self._encoder.model.dtype), self._encoder.device
        found = [torch.zeros(heads, seqlen, dtype=dtype, device=device) for _ in range(len(tokens))]
        for n, chunk, column, weight in _places(chunks, self._encoder.weights, tokens):
            row = self._attention(i, chunk, torch.is_grad_enabled())[:, column].to(dtype)
            at = chunks.index[chunk, : row.shape[1]].to(device)
            found[n] = found[n].index_add(1, at, row * weight)
        return torch.stack(found) if found else torch.zeros(0, heads, seqlen, dtype=dtype, device=device)

    def _chunks_of(self, i: int) -> Chunks:
        return chunks_of(self._encoder.chunking, self._lengths[i], None)

    def _attention_of(self, i: int, chunk: int, grad: bool) -> Tensor:
        """(heads, width, width) of the last layer in one chunk; `grad` is part of the cache's key alone."""
        chunks, model = self._chunks(i), self._encoder.model
        columns = chunks.index[chunk, : chunks.widths[chunk]].to(self._input_ids.device)
        ids = self._input_ids[i, columns][None].to(self._encoder.device)
        with _eager(model):
            output = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True, return_dict=True
            )
        if not output.attentions or output.attentions[-1] is None:
            got = f"{type(model).__name__}, which returns no weights of attention"
            raise TypeError(f"model: got {got}; expected an encoder with output_attentions")
        return output.attentions[-1][0]


def _places(chunks: Chunks, weights: str, tokens: Tensor) -> list[tuple[int, int, int, float]]:
    """Where tokens are in the chunks of one row: (which token, chunk, column, its share), chunk by chunk."""
    found, sums = [], [0.0] * len(tokens)
    for segment in chunks.plan.segments.tolist():
        chunk, col, start, length = segment[:4]
        options = segment[Column.KEEP_START : Column.ENDS_DOCUMENT + 1]
        inside = ((tokens >= start) & (tokens < start + length)).nonzero().flatten()
        u = tokens[inside] - start
        shares = weights_at(u.double(), length, *options, weights)
        for n, column, share in zip(inside.tolist(), (u + col).tolist(), shares.tolist(), strict=True):
            if share:
                found.append((n, chunk, column, share))
                sums[n] += share
    return [(n, chunk, column, share / sums[n]) for n, chunk, column, share in sorted(found, key=_chunk)]


def _chunk(place: tuple[int, int, int, float]) -> int:
    return place[1]


def _special_tokens(input_ids: Tensor, mask: Tensor, start_tokens: Any, end_tokens: Any) -> tuple[int, int]:
    """How many special tokens begin and end every row: all start_tokens, and the last ones of end_tokens."""
    start, end = integers("start_tokens", start_tokens), integers("end_tokens", end_tokens)
    found = set()
    for i, (ids, length) in enumerate(zip(input_ids.cpu(), mask.sum(1).tolist(), strict=True)):
        row = ids[:length].tolist()
        if not mask[i, :length].all() or row[: len(start)] != start.tolist():
            raise bad(f"input_ids[{i}]", reprlib.repr(row), f"expected {start.tolist()} first, padding last")
        suffixes = (n for n in range(len(end) + 1) if row[len(row) - n :] == end[len(end) - n :].tolist())
        found.add(max(suffixes))
    if len(found) != 1 or (len(end) and 0 in found):
        got = f"rows with {sorted(found)} of end_tokens at their end"
        raise bad("input_ids", got, f"expected each to end alike, with {end.tolist()} or the last of these")
    return len(start), found.pop()


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """The model's attention is transformers' own eager one, which returns its weights."""
    own = getattr(model.config, "_attn_implementation", None)
    if own in (None, "eager"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(own)
