"""The kernels of chunked_attention: attention within each chunk, merged over chunks by merge weights.

Rows are positions of the sequence, or with EXTRA the extra tokens of a chunk. A tile of positions runs
over each chunk that has one of them, so no chunk is materialised and no gradient has two writers. Tables
(num_chunks, heads, chunk_len + num_extra) hold for each row of a chunk its lse minus log(weight), from which
the backward recomputes the probabilities times the weight, and <dout, out of the chunk>.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from lckernels.backends.triton.kernels.attention_backward import (
    KeyTile,
    Queries,
    QueryTile,
    key_gradient_tile,
    query_gradient_tile,
)
from lckernels.backends.triton.kernels.attention_forward import attend_tile, no_keys, upright
from lckernels.backends.triton.kernels.key_tiles import QueryRows, Sequence
from lckernels.backends.triton.kernels.score import LOG2_E
from lckernels.backends.triton.kernels.tile_rows import Pair, load_rows, row_ptrs, store_rows, walk
from lckernels.backends.triton.kernels.window import Spans
from lckernels.backends.triton.merge_weights import TILE, segment_at, segment_range


class Tokens(NamedTuple):
    """q, k, v, dout (or None) as `Rows`: positions in batch 1, or extra tokens, one batch row per chunk."""

    q: Any
    k: Any
    v: Any
    dout: Any


class Chunks(NamedTuple):
    """A plan on the device."""

    segments: Any  # (num_segments, 10) int32
    tile_segments: Any  # (num_tiles, 2) int32
    by_row: Any  # (num_segments,) int64: segments in the order of their chunks
    row_begin: Any  # (num_chunks + 1,) int64: where the segments of each chunk begin in by_row
    merge_weights: Any  # (num_chunks, chunk_len) fp32: the normalized weight of each column


class Sizes(NamedTuple):
    """The sizes of a call; num_extra is the number of extra tokens of a chunk."""

    num_segments: Any
    num_chunks: Any
    chunk_len: Any
    total_len: Any
    num_extra: Any
    num_heads: Any


class Visit(NamedTuple):
    """A chunk that has rows of a tile."""

    chunk: Any
    column: Any  # of each row in the chunk; extra tokens have the columns from chunk_len on
    covered: Any  # whether the chunk has the row
    weight: Any


@triton.jit
def tile_of(pid, chunks, sizes, EXTRA: tl.constexpr, ROWS: tl.constexpr):
    """Batch and rows of a tile, which of them exist, and the range of chunks to visit; ROWS divides TILE."""
    if EXTRA:
        tiles_of_chunk = tl.cdiv(sizes.num_extra, ROWS)
        batch = pid // tiles_of_chunk
        row = pid % tiles_of_chunk * ROWS + tl.arange(0, ROWS)
        kept = row < sizes.num_extra
        begin, end = (pid * 0).to(tl.int64), (pid * 0 + 1).to(tl.int64)
    else:
        batch = pid * 0
        row = pid * ROWS + tl.arange(0, ROWS)
        kept = row < sizes.total_len
        begin, end = segment_range(chunks.tile_segments, pid.to(tl.int64) * ROWS // TILE, sizes.num_segments)
    return batch, row, kept, begin, end


@triton.jit
def visit_of(n, batch, row, chunks, sizes, EXTRA: tl.constexpr):
    """The n'th `Visit` of a tile's rows."""
    if EXTRA:
        covered = row < sizes.num_extra
        return Visit(batch.to(tl.int64), sizes.chunk_len + row.to(tl.int64), covered, covered.to(tl.float32))
    else:
        _, chunk, col, start, length = segment_at(
            chunks.segments, n, sizes.num_chunks, sizes.chunk_len, sizes.total_len
        )
        u = row - start
        covered = (u >= 0) & (u < length)
        weight = tl.load(chunks.merge_weights + chunk * sizes.chunk_len + col + u, mask=covered, other=0.0)
        return Visit(chunk, col + u, covered, weight)


@triton.jit
def chunk_segments(chunk, chunks, sizes):
    """The range of a chunk's segments in by_row."""
    known = (chunk >= 0) & (chunk < sizes.num_chunks)
    begin = tl.load(chunks.row_begin + chunk, mask=known, other=0)
    end = tl.load(chunks.row_begin + chunk + 1, mask=known, other=0)
    return tl.maximum(begin, 0), tl.minimum(end, sizes.num_segments)


@triton.jit
def chunk_segment(s, chunks, sizes):
    """Column, first position and length of the s'th segment in by_row."""
    n = tl.minimum(tl.maximum(tl.load(chunks.by_row + s), 0), sizes.num_segments - 1)
    _, _, col, start, length = segment_at(
        chunks.segments, n, sizes.num_chunks, sizes.chunk_len, sizes.total_len
    )
    return col, start, length


@triton.jit
def row_table(chunk, head, sizes):
    """Where the rows of a chunk and head begin in the tables of the backward."""
    return (chunk * sizes.num_heads + head) * (sizes.chunk_len + sizes.num_extra)


@triton.jit
def all_keys(num_keys, row, head, sees):
    """The `Sequence` and `QueryRows` of rows that see keys [0, num_keys), or none where `sees` is False."""
    zeros = (row * 0).to(tl.int32)
    spans = Spans(zeros, zeros, tl.where(sees, zeros + num_keys.to(tl.int32), 0), zeros)
    first, last = tl.min(spans.lo), tl.max(spans.hi)
    rows = QueryRows(row, sees, head + zeros, zeros.to(tl.int64), spans, zeros, sees, first, last)
    return Sequence(head, head, head, num_keys.to(tl.int32), head, head), rows


@triton.jit
def attend_keys(
    state, q_tile, kv, num_keys, row, head, tables, score, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr,
    BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax after num_keys keys."""
    seq, rows = all_keys(num_keys, row, head, row == row)
    num_clear = seq.num_k // BLOCK_N
    for t in tl.range(0, num_clear):
        state = attend_tile(
            state, t * BLOCK_N, seq.num_k, q_tile, kv, rows, seq, tables, score, None, False, HEAD_DIM,
            HEAD_DIM_V, BLOCK_N, PRECISION,
        )  # fmt: skip
    for t in tl.range(num_clear, tl.cdiv(seq.num_k, BLOCK_N)):
        state = attend_tile(
            state, t * BLOCK_N, seq.num_k, q_tile, kv, rows, seq, tables, score, None, True, HEAD_DIM,
            HEAD_DIM_V, BLOCK_N, PRECISION,
        )  # fmt: skip
    return state


@triton.jit
def attend_chunk(
    q_tile, chunk, row, head, kv_head, tokens, extra, chunks, sizes, tables, score, HEAD_DIM: tl.constexpr,
    HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Each row's softmax over the keys of a chunk."""
    state = no_keys(BLOCK_M, BLOCK_DV)
    begin, end = chunk_segments(chunk, chunks, sizes)
    for s in tl.range(begin, end):
        _, start, length = chunk_segment(s, chunks, sizes)
        kv = walk(tokens.k, tokens.v, chunk * 0, start, kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
        kv = Pair(kv, None, None)
        state = attend_keys(
            state, q_tile, kv, length, row, head, tables, score, HEAD_DIM, HEAD_DIM_V, BLOCK_N, PRECISION
        )  # fmt: skip
    if extra is not None:
        kv = walk(extra.k, extra.v, chunk, 0, kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
        kv = Pair(kv, None, None)
        state = attend_keys(
            state, q_tile, kv, chunk * 0 + sizes.num_extra, row, head, tables, score, HEAD_DIM, HEAD_DIM_V,
            BLOCK_N, PRECISION,
        )  # fmt: skip
    return state


@triton.jit
def chunked_forward_kernel(
    tokens, extra, out, lse, dots, chunks, sizes, tables, score, num_tiles, EXTRA: tl.constexpr,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: heads x tiles of rows, the last fastest; over the chunks that have a row of the tile, and for each
    # over its keys. Writes out, or where dots is given the backward's tables lse and dots.
    head = tl.program_id(0) // num_tiles
    batch, row, kept, begin, end = tile_of(tl.program_id(0) % num_tiles, chunks, sizes, EXTRA, BLOCK_M)
    source = extra if EXTRA else tokens
    q_tile = load_rows(row_ptrs(source.q, batch, 0, row, head, BLOCK_D), kept, HEAD_DIM, True)
    q_tile = upright(q_tile, score)
    if dots is None:
        merged = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    else:
        dout_tile = load_rows(row_ptrs(source.dout, batch, 0, row, head, BLOCK_DV), kept, HEAD_DIM_V, True)
    for n in tl.range(begin, end):
        visit = visit_of(n, batch, row, chunks, sizes, EXTRA)
        needed = visit.covered if dots is not None else visit.weight > 0
        if tl.max(needed.to(tl.int32)) > 0:
            state = attend_chunk(
                q_tile, visit.chunk, row, head, head // GROUP, tokens, extra, chunks, sizes, tables, score,
                HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N, BLOCK_D, BLOCK_DV, PRECISION,
            )  # fmt: skip
            counts = visit.weight > 0
            out_tile = state.acc / tl.where(state.row_sum == 0, 1.0, state.row_sum)[:, None]
            if dots is not None:
                place = row_table(visit.chunk, head, sizes) + visit.column
                tl.store(dots + place, tl.sum(out_tile * dout_tile.to(tl.float32), 1), mask=visit.covered)
                lse_row = (state.row_max * score.unit + tl.log2(state.row_sum)) / LOG2_E
                lse_row -= tl.log(tl.where(counts, visit.weight, 1.0))
                tl.store(lse + place, tl.where(counts, lse_row, float("inf")), mask=visit.covered)
            else:
                merged += tl.where(counts[:, None], out_tile * visit.weight[:, None], 0.0)
    if dots is None:
        store_rows(row_ptrs(out, batch, 0, row, head, BLOCK_DV), merged, kept, HEAD_DIM_V)


@triton.jit
def keys_gradient(
    dq_tile, queries, kv, num_keys, row, head, tables, score, HEAD_DIM: tl.constexpr,
    HEAD_DIM_V: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq / softmax_scale plus the contribution of num_keys keys; a row of lse inf sees none."""
    sees = queries.lse != float("inf")
    seq, rows = all_keys(num_keys, row, head, sees)
    num_clear = tl.where(tl.min(sees.to(tl.int32)) == 1, seq.num_k // BLOCK_N, 0)
    for t in tl.range(0, num_clear):
        dq_tile = query_gradient_tile(
            dq_tile, t * BLOCK_N, seq.num_k, queries, kv, rows, seq, tables, score, None, False, False,
            HEAD_DIM, HEAD_DIM_V, BLOCK_N, PRECISION,
        )  # fmt: skip
    for t in tl.range(num_clear, tl.cdiv(seq.num_k, BLOCK_N)):
        dq_tile = query_gradient_tile(
            dq_tile, t * BLOCK_N, seq.num_k, queries, kv, rows, seq, tables, score, None, True, True,
            HEAD_DIM, HEAD_DIM_V, BLOCK_N, PRECISION,
        )  # fmt: skip
    return dq_tile


@triton.jit
def chunked_backward_q_kernel(
    tokens, extra, dq, lse, dots, chunks, sizes, tables, score, num_tiles, EXTRA: tl.constexpr,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: heads x tiles of rows, the last fastest; over the chunks that have a row of the tile, and for each
    # over its keys.
    head = tl.program_id(0) // num_tiles
    kv_head = head // GROUP
    batch, row, kept, begin, end = tile_of(tl.program_id(0) % num_tiles, chunks, sizes, EXTRA, BLOCK_M)
    source = extra if EXTRA else tokens
    q_tile = load_rows(row_ptrs(source.q, batch, 0, row, head, BLOCK_D), kept, HEAD_DIM, True)
    dout_tile = load_rows(row_ptrs(source.dout, batch, 0, row, head, BLOCK_DV), kept, HEAD_DIM_V, True)
    dq_tile = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for n in tl.range(begin, end):
        visit = visit_of(n, batch, row, chunks, sizes, EXTRA)
        place = row_table(visit.chunk, head, sizes) + visit.column
        counts = visit.covered & (visit.weight > 0)
        lse_row = tl.load(lse + place, mask=counts, other=float("inf")) * LOG2_E
        queries = QueryTile(q_tile, dout_tile, lse_row, tl.load(dots + place, mask=counts, other=0.0))
        first, last = chunk_segments(visit.chunk, chunks, sizes)
        any_row = tl.max(counts.to(tl.int32))
        last = tl.where(any_row > 0, last, first)
        for s in tl.range(first, last):
            _, start, length = chunk_segment(s, chunks, sizes)
            kv = walk(tokens.k, tokens.v, visit.chunk * 0, start, kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
            kv = Pair(kv, None, None)
            dq_tile = keys_gradient(
                dq_tile, queries, kv, length, row, head, tables, score, HEAD_DIM, HEAD_DIM_V, BLOCK_N,
                PRECISION,
            )  # fmt: skip
        if extra is not None:
            kv = walk(extra.k, extra.v, visit.chunk, 0, kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
            kv = Pair(kv, None, None)
            dq_tile = keys_gradient(
                dq_tile, queries, kv, visit.chunk * 0 + sizes.num_extra * any_row, row, head, tables, score,
                HEAD_DIM, HEAD_DIM_V, BLOCK_N, PRECISION,
            )  # fmt: skip
    store_rows(row_ptrs(dq, batch, 0, row, head, BLOCK_D), dq_tile * score.scale, kept, HEAD_DIM)


@triton.jit
def queries_gradient(
    dk_tile, dv_tile, k_tile, v_tile, covered, q_dout, lse, dots, num_queries, head, tables, score,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dk / softmax_scale and dv plus the contribution of num_queries queries, where a key is covered."""
    j = tl.arange(0, BLOCK_N)
    num_q = num_queries.to(tl.int32)
    keys = KeyTile(k_tile, v_tile, j, j * 0, tl.where(covered, num_q, 0))
    queries = Queries(head, head, num_q, num_q, head * 0, head)
    num_tiles = tl.cdiv(num_q, BLOCK_M)
    num_whole = tl.where(tl.min(covered.to(tl.int32)) == 1, num_tiles, 0)
    for t in tl.range(0, num_whole):
        dk_tile, dv_tile = key_gradient_tile(
            dk_tile, dv_tile, t * BLOCK_M, keys, q_dout, lse, dots, queries, tables, score, True, False,
            HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N, PRECISION,
        )  # fmt: skip
    for t in tl.range(num_whole, num_tiles):
        dk_tile, dv_tile = key_gradient_tile(
            dk_tile, dv_tile, t * BLOCK_M, keys, q_dout, lse, dots, queries, tables, score, True, True,
            HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N, PRECISION,
        )  # fmt: skip
    return dk_tile, dv_tile


@triton.jit
def chunked_backward_kv_kernel(
    tokens, extra, dk, dv, lse, dots, chunks, sizes, tables, score, num_tiles, EXTRA: tl.constexpr,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: kv heads x tiles of rows as keys, the last fastest; over the chunks that have a row of the tile,
    # the group's heads, and the queries of the chunk.
    kv_head = tl.program_id(0) // num_tiles
    batch, row, kept, begin, end = tile_of(tl.program_id(0) % num_tiles, chunks, sizes, EXTRA, BLOCK_N)
    source = extra if EXTRA else tokens
    k_tile = load_rows(row_ptrs(source.k, batch, 0, row, kv_head, BLOCK_D), kept, HEAD_DIM, True)
    v_tile = load_rows(row_ptrs(source.v, batch, 0, row, kv_head, BLOCK_DV), kept, HEAD_DIM_V, True)
    dk_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_tile = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    USE_EXTRA: tl.constexpr = extra is not None and extra.dout is not None
    for n in tl.range(begin, end):
        visit = visit_of(n, batch, row, chunks, sizes, EXTRA)
        first, last = chunk_segments(visit.chunk, chunks, sizes)
        any_key = tl.max(visit.covered.to(tl.int32))
        last = tl.where(any_key > 0, last, first)
        for member in tl.range(0, GROUP):
            head = kv_head * GROUP + member
            table = row_table(visit.chunk, head, sizes)
            for s in tl.range(first, last):
                col, start, length = chunk_segment(s, chunks, sizes)
                q_dout = walk(tokens.q, tokens.dout, visit.chunk * 0, start, head, BLOCK_M, BLOCK_D, BLOCK_DV)
                q_dout = Pair(q_dout, None, None)
                dk_tile, dv_tile = queries_gradient(
                    dk_tile, dv_tile, k_tile, v_tile, visit.covered, q_dout, lse + table + col,
                    dots + table + col, length, head, tables, score, HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N,
                    PRECISION,
                )  # fmt: skip
            if USE_EXTRA:
                place = table + sizes.chunk_len
                q_dout = walk(extra.q, extra.dout, visit.chunk, 0, head, BLOCK_M, BLOCK_D, BLOCK_DV)
                q_dout = Pair(q_dout, None, None)
                dk_tile, dv_tile = queries_gradient(
                    dk_tile, dv_tile, k_tile, v_tile, visit.covered, q_dout, lse + place, dots + place,
                    visit.chunk * 0 + sizes.num_extra * any_key, head, tables, score, HEAD_DIM, HEAD_DIM_V,
                    BLOCK_M, BLOCK_N, PRECISION,
                )  # fmt: skip
    store_rows(row_ptrs(dk, batch, 0, row, kv_head, BLOCK_D), dk_tile * score.scale, kept, HEAD_DIM)
    store_rows(row_ptrs(dv, batch, 0, row, kv_head, BLOCK_DV), dv_tile, kept, HEAD_DIM_V)
