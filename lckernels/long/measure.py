"""The error of a LongEncoder's states on given tokens, against the model without chunks."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lckernels.flops import format_count
from lckernels.long.batches import Batch
from lckernels.long.memory import most_tokens
from lckernels.long.positions import usable_positions
from lckernels.long.sizes import Chunking
from lckernels.long.trial import eval_mode

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder

MAX_PIECES = 8
_WORST = 5


@dataclass(frozen=True)
class Measurement:
    """The states for chunks against those for pieces that the model reads without chunks.

    The error of a token is the norm of the difference of its two states over the norm of the state without
    chunks. Special tokens count, once per piece.

    Attributes:
        num_pieces: pieces that were compared, of rows longer than a chunk.
        piece_len: tokens of the longest piece, special tokens included.
        whole: whether each piece is a whole row; else pieces are evenly spaced parts of rows.
        num_tokens: tokens of all pieces.
        chunk_len: of the chunks that were measured.
        overlap: of these chunks.
        own_chunks: whether these are the sizes of the LongEncoder; else shorter ones, of which a piece has at
            least two: an indication of its error, no bound.
        mean_error: mean over tokens.
        max_error: the largest of a token.
        mean_cosine_distance: mean over tokens of 1 - cosine of the two states.
        worst: (row, column of input_ids, error) of the tokens with the largest errors, at most 5.
    """

    num_pieces: int
    piece_len: int
    whole: bool
    num_tokens: int
    chunk_len: int
    overlap: int
    own_chunks: bool
    mean_error: float
    max_error: float
    mean_cosine_distance: float
    worst: tuple[tuple[int, int, float], ...]

    def __str__(self) -> str:
        what = "whole row" if self.whole else "piece"
        worst = ", ".join(f"{error:.3g} (row {row}, column {column})" for row, column, error in self.worst)
        lines = [
            f"measured     mean error {self.mean_error:.3g}, mean cosine distance "
            f"{self.mean_cosine_distance:.3g}, on {format_count(self.num_tokens, 'token')}",
            f"             chunks of {self.chunk_len:,}, overlap {self.overlap:,}, against "
            f"{format_count(self.num_pieces, what)} of up to {self.piece_len:,} tokens",
            f"worst        {worst}",
        ]
        if not self.own_chunks:
            lines.insert(
                2, "             an indication only: such a piece is less than two chunks of the encoder"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Piece:
    """Some tokens of a row.

    Attributes:
        row: of the batch.
        columns: (num_tokens,) int64, its columns of input_ids; special tokens of the row included.
    """

    row: int
    columns: Tensor


def measure(encoder: "LongEncoder", batch: Batch) -> Measurement | str:
    """The error on the rows of a batch, or why it cannot be measured."""
    lengths = batch.lengths.tolist()
    long_rows = [row for row, length in enumerate(lengths) if length > _room(encoder.chunking)]
    reason = _reason(encoder, long_rows)
    if reason:
        return reason
    longest = max(lengths)
    most = _most_tokens(encoder, longest)
    whole = longest <= most
    chunking = encoder.chunking if whole else _shorter_chunks(encoder, most)
    if chunking is None:
        return f"a row of {most:,} tokens is the most that the model reads, which is too short for two chunks"
    pieces = list(_pieces(batch, encoder.chunking, long_rows, most))
    one_chunk = replace(chunking, chunk_len=most + chunking.num_prefix)
    whole_pieces = _with(encoder, one_chunk, halo=None, merge="final", weights="uniform", summary="first")
    chunked = _with(encoder, chunking)
    ids = batch.sources["input_ids"]
    errors, distances = [], []
    with torch.no_grad(), eval_mode(encoder.model):
        for piece in pieces:
            tokens = ids[piece.row, piece.columns.to(ids.device)][None]
            states = [run(tokens).last_hidden_state[0].cpu().double() for run in (whole_pieces, chunked)]
            errors.append(state_errors(*states))
            distances.append(1 - torch.cosine_similarity(*states, dim=1))
    error = torch.cat(errors)
    return Measurement(
        num_pieces=len(pieces),
        piece_len=max(len(piece.columns) for piece in pieces),
        whole=whole,
        num_tokens=len(error),
        chunk_len=chunking.chunk_len,
        overlap=chunking.overlap,
        own_chunks=chunking.chunk_len == encoder.chunk_len,
        mean_error=float(error.mean()),
        max_error=float(error.max()),
        mean_cosine_distance=float(torch.cat(distances).mean()),
        worst=_worst(pieces, errors),
    )


def state_errors(whole: Tensor, chunked: Tensor) -> Tensor:
    """(seqlen,): the norm of each state's difference over that of the state for the whole, (seqlen, dim)."""
    norms = whole.norm(dim=1).clamp(min=torch.finfo(whole.dtype).tiny)
    return (chunked - whole).norm(dim=1) / norms


def _reason(encoder: "LongEncoder", long_rows: list[int]) -> str:
    """Why nothing can be measured; empty if something can."""
    if not long_rows:
        return "every row is one chunk"
    if isinstance(encoder.weights, Tensor):
        return "weights are a tensor for one plan; a function of the plan is measured"
    if encoder.trial is not None and encoder.trial.row_tokens is not None:
        return f"the model reads rows of {encoder.trial.row_tokens} tokens only"
    return "its weights are on the meta device" if encoder.device.type == "meta" else ""


def _room(chunking: Chunking) -> int:
    """Tokens of a row that is one chunk at most."""
    return chunking.chunk_len - chunking.num_prefix


def _most_tokens(encoder: "LongEncoder", longest: int) -> int:
    """The most tokens of a row without the prefix that are read without chunks, up to `longest`."""
    found = [longest]
    limit = usable_positions(encoder.model)
    if limit is not None and encoder.halo is None:  # an exact halo requires positions without a limit
        found.append(limit[0] - encoder.chunking.num_prefix)
    in_memory = most_tokens(encoder, longest)
    return min(found if in_memory is None else [*found, in_memory])


def _shorter_chunks(encoder: "LongEncoder", most: int) -> Chunking | None:
    """The encoder's chunks, halved until two of them are at most `most` tokens; None if that is too few."""
    own = chunking = encoder.chunking
    special = own.num_special
    while True:
        room = chunking.chunk_len - special - own.num_prefix
        if room < 1 or (encoder.halo is not None and room <= own.overlap):
            return None
        if most - special >= 2 * room - chunking.overlap:
            return chunking
        shorter = chunking.chunk_len // 2
        overlap = own.overlap
        if encoder.halo is None:
            overlap = own.overlap * (shorter - special - own.num_prefix) // (_room(own) - special)
        chunking = replace(chunking, chunk_len=shorter, overlap=max(overlap, 0), overlap_given=True)


def _pieces(batch: Batch, chunking: Chunking, rows: list[int], most: int) -> Iterator[_Piece]:
    """At most MAX_PIECES pieces of the rows, evenly spaced, each with the special tokens of its row."""
    step = max(len(rows) / MAX_PIECES, 1)
    rows = [rows[int(i * step)] for i in range(min(len(rows), MAX_PIECES))]
    lead, trail = chunking.num_leading, chunking.num_trailing
    for row in rows:
        length, first = int(batch.lengths[row]), int(batch.first[row])
        size, room = length - lead - trail, most - lead - trail
        count = max(min(MAX_PIECES // len(rows), size // room), 1)
        for i in range(count):
            begin = 0 if count == 1 else i * (size - room) // (count - 1)
            content = torch.arange(begin, min(begin + room, size), device="cpu") + lead
            ends = torch.arange(lead, device="cpu"), torch.arange(length - trail, length, device="cpu")
            yield _Piece(row, first + torch.cat([ends[0], content, ends[1]]))


def _with(encoder: "LongEncoder", chunking: Chunking, **attributes: object) -> "LongEncoder":
    """The same encoder with other chunks, on the same model."""
    other = copy.copy(encoder)
    other._modules = dict(encoder._modules)  # weights may be a module
    rule = "sled" if chunking.rule == "sentence" else chunking.rule
    for name, value in {"chunking": replace(chunking, rule=rule), "progress": False, **attributes}.items():
        other._modules.pop(name, None)
        setattr(other, name, value)
    return other


def _worst(pieces: list[_Piece], errors: list[Tensor]) -> tuple[tuple[int, int, float], ...]:
    """The largest errors with their rows and columns; a column in several pieces counts once."""
    largest: dict[tuple[int, int], float] = {}
    for piece, error in zip(pieces, errors, strict=True):
        found = error.topk(min(_WORST, len(error)))
        for value, at in zip(found.values.tolist(), found.indices.tolist(), strict=True):
            place = piece.row, int(piece.columns[at])
            largest[place] = max(value, largest.get(place, 0.0))
    ordered = sorted(largest.items(), key=lambda item: -item[1])[:_WORST]
    return tuple((row, column, value) for (row, column), value in ordered)
