"""The merged states of one row by their definition: a plain loop over its chunks, without lckernels."""

from collections.abc import Callable

import torch
from torch import Tensor


def content_sizes(
    length: int, lead: int, trail: int, chunk_len: int, overlap: int | None
) -> tuple[int, int, int]:
    """Content of a row, content of a chunk, and overlap, whose default is a quarter of a chunk's content."""
    room = chunk_len - lead - trail
    return length - lead - trail, room, room // 4 if overlap is None else overlap


def chunk_starts(content: int, room: int, overlap: int) -> list[int]:
    """Where each chunk begins in the content; the last one ends with it (rule "sled")."""
    starts = [0]
    while starts[-1] + room < content:
        starts.append(min(starts[-1] + room - overlap, content - room))
    return starts


def kept_ends(content: int, room: int, overlap: int) -> list[int]:
    """Where the content that each chunk keeps ends; the next chunk's begins there."""
    right_margin = overlap - overlap // 2
    return [start + room - right_margin for start in chunk_starts(content, room, overlap)[:-1]] + [content]


def merged_by_hand(
    read: Callable[[Tensor], list[Tensor]],
    length: int,
    *,
    lead: int = 1,
    trail: int = 1,
    chunk_len: int,
    overlap: int | None = None,
    weights: str = "triangular",
    summary: str = "mean",
) -> tuple[list[Tensor], int]:
    """The merged states (length, dim) of each layer, and the number of chunks.

    Args:
        read: columns of the row, of one chunk -> the states (columns, dim) of each layer.
        length: tokens of the row.
        lead: first tokens of the row that every chunk reads.
        trail: last tokens of the row that every chunk reads; their states are those of the last one.
        chunk_len: tokens of a chunk.
        overlap: as in `lengthen`.
        weights: "triangular" or "uniform".
        summary: as in `lengthen`.
    """
    content, room, overlap = content_sizes(length, lead, trail, chunk_len, overlap)
    starts, ends = chunk_starts(content, room, overlap), kept_ends(content, room, overlap)
    kept = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    totals, norm, leading, last = None, 0, [], []
    for n, start in enumerate(starts):
        end = min(start + room, content)
        columns = [*range(lead), *range(lead + start, lead + end), *range(length - trail, length)]
        states = read(torch.tensor(columns))
        u = torch.arange(end - start)
        to_left = u + 1 if n else torch.full_like(u, end - start)
        to_right = end - start - u if n < len(starts) - 1 else torch.full_like(u, end - start)
        weight = torch.minimum(to_left, to_right) if weights == "triangular" else torch.ones_like(u)
        weight = weight.to(states[0].dtype)[:, None]
        at = torch.arange(start, end)
        if totals is None:
            totals = [state.new_zeros(content, state.shape[1]) for state in states]
            norm = states[0].new_zeros(content, 1)
        parts = [weight * state[lead : len(state) - trail] for state in states]
        totals = [total.index_add(0, at, part) for total, part in zip(totals, parts, strict=True)]
        norm = norm.index_add(0, at, weight)
        leading.append([state[:lead] for state in states])
        last = [state[len(state) - trail :] for state in states]
    if summary == "first":
        firsts = leading[0]
    else:
        of_layers = zip(*leading, strict=True)
        firsts = [sum(k * x for k, x in zip(kept, of, strict=True)) / sum(kept) for of in of_layers]
    merged = [
        torch.cat([first, total / norm, end]) for first, total, end in zip(firsts, totals, last, strict=True)
    ]
    return merged, len(starts)
