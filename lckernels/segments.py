"""The segments of a plan: validation, sorting, and the tables that kernels read. Pure torch, on the CPU."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from lckernels.checks import INT32_MAX, bad, integers

TILE_LEN = 64


class Column(IntEnum):
    """Columns of `Plan.segments`, as in `struct Segment` of csrc/params.h."""

    ROW = 0
    COL = 1
    START = 2
    LENGTH = 3
    KEEP_START = 4
    KEEP_END = 5
    STARTS_DOCUMENT = 6
    ENDS_DOCUMENT = 7
    FILL_START = 8
    FILL_END = 9


class Tables(NamedTuple):
    """The tensors and the crop gap of a `Plan`, which documents them."""

    segments: Tensor
    tile_segments: Tensor
    cu_seqlens: Tensor
    crop_gap: int


def tables(
    segments: Tensor | Sequence[Sequence[int]],
    num_chunks: int,
    chunk_len: int,
    total_len: int,
    cu_seqlens: Tensor | Sequence[int] | None,
) -> Tables:
    """The tables of a plan; arguments and errors as in `Plan.from_segments`, sizes already checked."""
    offsets = _document_offsets(cu_seqlens, total_len)
    table = integers("segments", segments, ndim=2)
    if table.shape[1] not in (4, 6, 8):
        raise bad("segments", f"shape {tuple(table.shape)}", "expected 4, 6 or 8 columns")
    _check_values(table, num_chunks, chunk_len, total_len)

    given = (table[:, Column.LENGTH] > 0).nonzero().squeeze(1)
    table = table.index_select(0, given).t().contiguous()
    row, col, start, length = table[:4]
    end = start + length
    keep_start, keep_end = table[4:6] if len(table) >= 6 else (torch.zeros_like(start), length)
    document = torch.searchsorted(offsets, start, right=True) - 1
    first, last = offsets[document], offsets[document + 1]
    crossing = end > last
    if crossing.any():
        i = int(crossing.nonzero()[0])
        got = f"positions [{int(start[i])}, {int(end[i])}), across a document's end"
        allowed = f"document {int(document[i])} has [{int(first[i])}, {int(last[i])})"
        raise bad(f"segments[{int(given[i])}]", got, allowed)
    starts, ends = table[6:8] if len(table) == 8 else (start == first, end == last)
    fill_start, fill_end = _fill_ranges(row, col, length, chunk_len, given)

    columns = (row, col, start, length, keep_start, keep_end, starts, ends, fill_start, fill_end)
    full = torch.stack([column.to(torch.int32) for column in columns], dim=1)
    full = torch.cat([_empty_rows(row, num_chunks, chunk_len), full])
    # start * num_chunks + row < 2^62.
    order = _sorting_order(full[:, Column.START].long() * num_chunks + full[:, Column.ROW])
    full = full if order is None else full[order]
    return Tables(
        segments=full.contiguous(),
        tile_segments=_tile_segments(full, total_len),
        cu_seqlens=offsets.to(torch.int32),
        crop_gap=_crop_gap(start + keep_start, start + keep_end, total_len),
    )


def _document_offsets(cu_seqlens: Tensor | Sequence[int] | None, total_len: int) -> Tensor:
    if cu_seqlens is None:
        return torch.tensor([0, total_len], device="cpu")
    offsets = integers("cu_seqlens", cu_seqlens)
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != total_len or (offsets.diff() < 0).any():
        allowed = f"expected offsets that begin with 0, end with total_len = {total_len} and never fall"
        raise bad("cu_seqlens", offsets.tolist(), allowed)
    return offsets


def _check_values(table: Tensor, num_chunks: int, chunk_len: int, total_len: int) -> None:
    """Checks each segment alone: int32 values inside its row, the output and its own length."""
    wild = ((table < 0) | (table > INT32_MAX)).any(1)
    if wild.any():
        i = int(wild.nonzero()[0])
        raise bad(f"segments[{i}]", table[i].tolist(), f"expected values between 0 and {INT32_MAX}")
    row, col, start, length = table[:, :4].unbind(1)
    rules = [
        (row >= num_chunks, f"a row below num_chunks = {num_chunks}"),
        (col + length > chunk_len, f"col + length within chunk_len = {chunk_len}"),
        (start + length > total_len, f"start + length within total_len = {total_len}"),
    ]
    if table.shape[1] >= 6:
        keep_start, keep_end = table[:, 4], table[:, 5]
        rules.append(((keep_start > keep_end) | (keep_end > length), "keep_start <= keep_end <= length"))
    if table.shape[1] == 8:
        rules.append(((table[:, 6:] > 1).any(1), "0 or 1 in starts_document and ends_document"))
    for wrong, allowed in rules:
        if wrong.any():
            i = int(wrong.nonzero()[0])
            names = [column.name.lower() for column in Column][: table.shape[1]]
            got = ", ".join(f"{name} {value}" for name, value in zip(names, table[i].tolist(), strict=True))
            raise bad(f"segments[{i}]", got, f"expected {allowed}")


def _sorting_order(key: Tensor) -> Tensor | None:
    """The stable permutation that sorts `key`; None if it is sorted."""
    return None if (key[1:] >= key[:-1]).all() else key.argsort(stable=True)


def _fill_ranges(
    row: Tensor, col: Tensor, length: Tensor, chunk_len: int, given: Tensor
) -> tuple[Tensor, Tensor]:
    """The columns of its row that each segment owns. Raises if two segments of a row share a column."""
    order = _sorting_order(row * chunk_len + col)
    if order is None:
        order = torch.arange(len(row), device="cpu")
    row, col, end = row[order], col[order], (col + length)[order]
    same_row = row[1:] == row[:-1]
    shared = same_row & (col[1:] < end[:-1])
    if shared.any():
        i = int(shared.nonzero()[0])
        pair = sorted(given[order[i : i + 2]].tolist())
        got = f"column {int(col[i + 1])} of row {int(row[i])}, which segments[{pair[0]}] has too"
        raise bad(f"segments[{pair[1]}]", got, "expected no column in two segments")
    fill_start, fill_end = torch.zeros_like(end), torch.full_like(end, chunk_len)
    fill_start[order[1:]] = end[:-1] * same_row
    fill_end[order[:-1]] = torch.where(same_row, end[:-1], chunk_len)
    return fill_start, fill_end


def _empty_rows(row: Tensor, num_chunks: int, chunk_len: int) -> Tensor:
    """(num_empty, 10) int32: a segment of length 0 for each row without one, so that every row is filled."""
    empty = torch.ones(num_chunks, dtype=torch.bool, device="cpu")
    empty[row] = False
    rows = empty.nonzero().squeeze(1)
    segments = torch.zeros(len(rows), len(Column), dtype=torch.int32, device="cpu")
    segments[:, Column.ROW] = rows.to(torch.int32)
    segments[:, Column.FILL_END] = chunk_len
    return segments


def _tile_segments(segments: Tensor, total_len: int) -> Tensor:
    """(num_tiles, 2) int32 from sorted segments. Raises if a position is uncovered."""
    start = segments[:, Column.START].long()
    reached = (start + segments[:, Column.LENGTH]).cummax(0).values
    before = torch.cat([reached.new_zeros(1), reached])
    gaps = (torch.cat([start, start.new_tensor([total_len])]) > before).nonzero()
    if len(gaps):
        got = f"none that covers position {int(before[gaps[0]])}"
        raise bad("segments", got, "expected every position of the output in a segment")
    num_tiles = -(-total_len // TILE_LEN)
    # Segments that end before tile i, and segments that start before its end.
    first = torch.bincount((reached + TILE_LEN - 1) // TILE_LEN, minlength=num_tiles).cumsum(0)
    stop = torch.bincount(start // TILE_LEN, minlength=num_tiles).cumsum(0)
    return torch.stack([first[:num_tiles], stop[:num_tiles]], dim=1).to(torch.int32)


def _crop_gap(begin: Tensor, end: Tensor, total_len: int) -> int:
    """The first position that the ranges [begin, end) do not cover exactly once; -1 if there is none."""
    kept = end > begin
    begin, end = begin[kept], end[kept]
    order = _sorting_order(begin)
    if order is not None:
        begin, end = begin[order], end[order]
    begin = torch.cat([begin, begin.new_tensor([total_len])])
    end = torch.cat([end.new_zeros(1), end])
    wrong = (begin != end).nonzero()
    return int(torch.minimum(begin, end)[wrong[0]]) if len(wrong) else -1
