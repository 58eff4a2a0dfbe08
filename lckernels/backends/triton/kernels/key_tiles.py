"""The tile of queries of a program and the tiles of keys that it runs over, in Triton."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from lckernels.backends.triton.kernels.window import in_span, own_segment, sequence_keys, visible_keys

SPAN_ALIGN = tl.constexpr(16)  # loops over keys start at a multiple of it
# Arguments that vary from call to call: one compiled kernel is used for all their values.
VARYING = (
    "left", "right", "sink_tokens", "chunk", "chunk_origin", "offset", "total_q", "total_k", "num_seqs",
    "num_tiles", "num_splits", "num_strips", "num_rows",
)  # fmt: skip


class Sequence(NamedTuple):
    """The sequence of a tile of queries, and its offsets in the tensors."""

    index: Any
    q_begin: Any
    k_begin: Any
    num_k: Any
    kv_head: Any
    key_row: Any  # of its keys in tables by key, int64


class QueryRows(NamedTuple):
    """The rows of a tile of queries; each field is a vector."""

    i: Any  # query of the sequence
    kept: Any  # False beyond its end
    head: Any
    p: Any  # position among the keys, int64
    spans: Any
    segment: Any  # own segment id
    has_segment: Any
    first: Any  # no row sees an earlier key
    last: Any  # nor this one or a later one


class KeyTiles(NamedTuple):
    """Tiles of keys that a tile of queries runs over: tile t of its windows starts at begin + t * BLOCK_N.

    Of its split's [first, last) every row sees [clear_first, clear_last) whole; `masked_tile` enumerates
    the others, then the tiles of sink tokens before begin, from sink_first on, which belong to split 0.
    """

    begin: Any
    first: Any
    last: Any
    clear_first: Any
    clear_last: Any
    sink_first: Any
    num_masked: Any


@triton.jit
def locate(tile, cu_seqlens, num_seqs, BLOCK: tl.constexpr, ROWS_PER_TOKEN: tl.constexpr):
    """Sequence of the tile'th tile of packed input, and its tile there; num_seqs if there is no such tile."""
    SCAN: tl.constexpr = 128
    seq = 0
    first_tile = 0
    counted = 0
    for start in range(0, num_seqs, SCAN):
        i = start + tl.arange(0, SCAN)
        begin = tl.load(cu_seqlens + i, mask=i < num_seqs, other=0).to(tl.int64)
        end = tl.load(cu_seqlens + i + 1, mask=i < num_seqs, other=0).to(tl.int64)
        count = tl.cdiv(tl.maximum(end - begin, 0) * ROWS_PER_TOKEN, BLOCK).to(tl.int32)
        stop = counted + tl.cumsum(count, 0)
        passed = (stop <= tile) & (i < num_seqs)
        seq += tl.sum(passed.to(tl.int32), 0)
        first_tile = tl.maximum(first_tile, tl.max(tl.where(passed, stop, 0), 0))
        counted += tl.sum(count, 0)
    return seq, tile - first_tile


@triton.jit
def sequence_rows(cu_seqlens, seq, total):
    """First row and number of rows of a sequence, clamped to the tensor."""
    if cu_seqlens is None:
        begin = 0
        end = total
    else:
        begin = tl.load(cu_seqlens + seq).to(tl.int64)
        begin = tl.minimum(tl.maximum(begin, 0), total).to(tl.int32)
        end = tl.load(cu_seqlens + seq + 1).to(tl.int64)
        end = tl.minimum(tl.maximum(end, begin), total).to(tl.int32)
    return begin, end - begin


@triton.jit
def query_tile(
    batch, head, tile, tables, rule, chunk_origin, offset, total_q, total_k, num_seqs, GROUP: tl.constexpr,
    PACK: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """`Sequence` and `QueryRows` of the tile'th tile of a head (with PACK a kv head) of a batch row.

    Without such a tile no row exists (`kept` is False).
    """
    ROWS_PER_TOKEN: tl.constexpr = GROUP if PACK else 1
    index = batch
    if tables.cu_seqlens_q is not None:
        index, tile = locate(tile, tables.cu_seqlens_q, num_seqs, BLOCK_M, ROWS_PER_TOKEN)
    beyond = index >= num_seqs
    index = tl.minimum(index, num_seqs - 1)
    q_begin, num_q = sequence_rows(tables.cu_seqlens_q, index, total_q)
    k_begin, num_k = sequence_rows(tables.cu_seqlens_k, index, total_k)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    kept = row < tl.where(beyond, 0, num_q * ROWS_PER_TOKEN)
    i = tl.maximum(tl.minimum(row // ROWS_PER_TOKEN, num_q - 1), 0)
    if PACK:
        kv_head = head
        q_head = head * GROUP + row % GROUP
    else:
        kv_head = head // GROUP
        q_head = head + row * 0
    keys = sequence_keys(tables, index, offset, chunk_origin, num_q, num_k)
    p = i.to(tl.int64) + keys.shift
    key_row = batch.to(tl.int64) * total_k + k_begin
    spans = visible_keys(p, rule, keys, tables, key_row, num_k)
    segment, has_segment = own_segment(tables, key_row, p, num_k)
    first, last = hull(spans.lo, spans.hi, num_k)
    if rule.sink_tokens is not None:
        first_sink, last_sink = hull(spans.floor, spans.sinks, num_k)
        first, last = tl.minimum(first, first_sink), tl.maximum(last, last_sink)
    seq = Sequence(index, q_begin, k_begin, num_k, kv_head, key_row)
    return seq, QueryRows(i, kept, q_head, p, spans, segment, has_segment, first, last)


@triton.jit
def hull(begin, end, num_k):
    """The smallest span that holds those of the spans that are not empty; (num_k, 0) if all are."""
    return tl.min(tl.where(begin < end, begin, num_k)), tl.max(tl.where(begin < end, end, 0))


@triton.jit
def key_tiles(rows, seq, tables, sink_tokens, split, num_splits, BLOCK_N: tl.constexpr):
    """The `KeyTiles` of one split of the keys that rows see."""
    spans = rows.spans
    begin, end = hull(spans.lo, spans.hi, seq.num_k)
    if tables.segment_start is not None:
        begin, end = rows.first, rows.last  # the sink tokens of segments may be anywhere
    begin = begin // SPAN_ALIGN * SPAN_ALIGN
    num_tiles = tl.cdiv(tl.maximum(end - begin, 0), BLOCK_N)
    per_split = tl.cdiv(num_tiles, num_splits)
    first = tl.minimum(split * per_split, num_tiles)
    last = tl.minimum(first + per_split, num_tiles)
    clear_first, clear_last = first, first
    if tables.kv_mask is None and tables.segment_ids is None:
        clear_first = tl.cdiv(tl.maximum(tl.max(spans.lo) - begin, 0), BLOCK_N)
        clear_first = tl.minimum(tl.maximum(clear_first, first), last)
        clear_last = tl.maximum(tl.min(spans.hi) - begin, 0) // BLOCK_N
        clear_last = tl.minimum(tl.maximum(clear_last, clear_first), last)
    sink_first = rows.first // SPAN_ALIGN * SPAN_ALIGN
    num_masked = last - first - (clear_last - clear_first)
    if sink_tokens is not None:
        sink_stop = tl.where(split == 0, tl.minimum(tl.max(spans.sinks), begin), 0)
        num_masked += tl.cdiv(tl.maximum(sink_stop - sink_first, 0), BLOCK_N)
    return KeyTiles(begin, first, last, clear_first, clear_last, sink_first, num_masked)


@triton.jit
def masked_tile(t, tiles, num_k, sink_tokens, BLOCK_N: tl.constexpr):
    """First key of the t'th masked tile, and the key from which on its keys belong to another tile."""
    place = tiles.first + t
    place += tl.where(place < tiles.clear_first, 0, tiles.clear_last - tiles.clear_first)
    start = tiles.begin + place * BLOCK_N
    stop = num_k
    if sink_tokens is not None:
        in_window = place < tiles.last
        start = tl.where(in_window, start, tiles.sink_first + (place - tiles.last) * BLOCK_N)
        stop = tl.where(in_window, num_k, tiles.begin)
    return start, stop


@triton.jit
def valid_keys(j, rows, tables, key_row):
    """Which of the keys j (BLOCK_N,) may be read: no row of the tile sees the others."""
    valid = (j >= rows.first) & (j < rows.last)
    if tables.kv_mask is not None:
        valid = tl.load(tables.kv_mask + key_row + j, mask=valid, other=0) != 0
    return valid


@triton.jit
def seen_keys(j, stop, rows, valid, tables, key_row, sink_tokens):
    """Which of the keys j (BLOCK_N,) before `stop` each row sees: (rows, BLOCK_N) bool."""
    spans = rows.spans
    seen = in_span(j[None, :], spans.lo[:, None], spans.hi[:, None])
    if sink_tokens is not None:
        seen = seen | in_span(j[None, :], spans.floor[:, None], spans.sinks[:, None])
    if sink_tokens is not None or tables.kv_mask is not None:  # else every key of a span is valid
        seen = seen & (valid & (j < stop))[None, :]
    if tables.segment_ids is not None:
        key_segment = tl.load(tables.segment_ids + key_row + j, mask=valid, other=0)
        seen = seen & rows.has_segment[:, None] & (key_segment[None, :] == rows.segment[:, None])
    return seen
