"""Tiles of rows of a (batch, seqlen, heads, head_dim) tensor in Triton."""

from typing import Any, NamedTuple

import triton
import triton.language as tl


class Walk(NamedTuple):
    """Two tensors that a loop reads together: addresses of the first tiles, row strides, batch, head, row."""

    first: Any
    second: Any
    first_stride: Any
    second_stride: Any
    batch: Any
    head: Any
    row: Any


class Pair(NamedTuple):
    """k and v, or q and dout: how a loop reads them.

    Blocks are tensor descriptors of (batch, heads, seqlen, head_dim), through which whole tiles are read, or
    None. They are outside the `Walk` because a function of Triton 3.6 cannot return None.
    """

    walk: Any
    first_blocks: Any
    second_blocks: Any


@triton.jit
def walk(x, y, batch, first_row, head, ROWS: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_Y: tl.constexpr):
    """A `Walk` over the rows of x and y from first_row on, ROWS at a time."""
    row = tl.arange(0, ROWS)
    return Walk(
        row_ptrs(x, batch, first_row, row, head, BLOCK_X),
        row_ptrs(y, batch, first_row, row, head, BLOCK_Y),
        x.stride_m,
        y.stride_m,
        batch,
        head,
        first_row,
    )


@triton.jit
def row_ptrs(x, batch, first_row, row, head, BLOCK_D: tl.constexpr):
    """Addresses (rows, BLOCK_D) of rows first_row + row of a head; row and head may be vectors or scalars."""
    base = x.ptr + batch.to(tl.int64) * x.stride_b
    offsets = (first_row + row).to(tl.int64) * x.stride_m + head.to(tl.int64) * x.stride_h
    return base + offsets[:, None] + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def load_rows(ptrs, kept, DIM: tl.constexpr, MASKED: tl.constexpr):
    """A tile (rows, BLOCK_D): dims from DIM on are 0, and with MASKED the rows that are not kept."""
    PADDED: tl.constexpr = ptrs.shape[1] != DIM
    if MASKED and PADDED:
        tile = tl.load(ptrs, mask=kept[:, None] & (tl.arange(0, ptrs.shape[1]) < DIM)[None, :], other=0.0)
    elif MASKED:
        tile = tl.load(ptrs, mask=kept[:, None], other=0.0)
    elif PADDED:
        tile = tl.load(ptrs, mask=(tl.arange(0, ptrs.shape[1]) < DIM)[None, :], other=0.0)
    else:
        tile = tl.load(ptrs)
    return tile


@triton.jit
def load_block(blocks, place, start):
    """A tile through a tensor descriptor: all its rows from `start` on are the head's; missing dims are 0."""
    row = place.row + start
    tile = blocks.load([place.batch.to(tl.int32), place.head.to(tl.int32), row.to(tl.int32), 0])
    return tile.reshape(tile.shape[2], tile.shape[3])


@triton.jit
def load_tile(ptrs, stride, blocks, place, start, kept, DIM: tl.constexpr, MASKED: tl.constexpr):
    """The rows from `start` on of a tensor of a `Pair`."""
    if blocks is not None and not MASKED:
        return load_block(blocks, place, start)
    skip = tl.full([], 0, tl.int64) + start
    return load_rows(ptrs + skip * stride, kept, DIM, MASKED)


@triton.jit
def load_first(pair, start, kept, DIM: tl.constexpr, MASKED: tl.constexpr):
    """The rows from `start` on of the first tensor of a `Pair`."""
    place = pair.walk
    return load_tile(place.first, place.first_stride, pair.first_blocks, place, start, kept, DIM, MASKED)


@triton.jit
def load_second(pair, start, kept, DIM: tl.constexpr, MASKED: tl.constexpr):
    """The rows from `start` on of the second tensor of a `Pair`."""
    place = pair.walk
    return load_tile(place.second, place.second_stride, pair.second_blocks, place, start, kept, DIM, MASKED)


@triton.jit
def store_rows(ptrs, tile, kept, DIM: tl.constexpr):
    """Stores the kept rows and the dims before DIM."""
    dims = tl.arange(0, ptrs.shape[1]) < DIM
    tl.store(ptrs, tile.to(ptrs.dtype.element_ty), mask=kept[:, None] & dims[None, :])


@triton.jit
def finite_rows(x):
    """x (rows, dims) with rows that hold inf or NaN set to 0, and which rows those are."""
    finite = tl.abs(x.to(tl.float32)) < float("inf")
    bad = tl.min(finite.to(tl.int32), 1) == 0
    return tl.where(bad[:, None], 0.0, x).to(x.dtype), bad
