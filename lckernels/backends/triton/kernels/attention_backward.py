"""The backward kernels of windowed_attention: delta, then dk and dv by tiles of keys, dq by tiles of queries.

Two passes recompute the probabilities (7 products of matrices instead of 5), so that each gradient has one
writer: deterministic, no atomics. Source of the formulas: FlashAttention-2 (Dao, 2023).
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from lckernels.backends.triton.kernels.key_tiles import (
    VARYING,
    key_tiles,
    locate,
    masked_tile,
    query_tile,
    seen_keys,
    sequence_rows,
    valid_keys,
)
from lckernels.backends.triton.kernels.score import LOG2_E, dropout_keep, exponents, scores
from lckernels.backends.triton.kernels.tile_rows import (
    Pair,
    finite_rows,
    load_first,
    load_rows,
    load_second,
    row_ptrs,
    store_rows,
    walk,
)
from lckernels.backends.triton.kernels.window import (
    Rule,
    in_span,
    own_segment,
    sequence_keys,
    visible_queries,
)


class QueryTile(NamedTuple):
    """A tile of queries in the backward: its rows of q and dout, lse times log2(e), delta."""

    q: Any
    dout: Any
    lse: Any
    delta: Any


class KeyTile(NamedTuple):
    """A tile of keys: its rows of k and v, the keys j, and the queries [begin, end) that see each of them."""

    k: Any
    v: Any
    j: Any
    begin: Any
    end: Any


class Queries(NamedTuple):
    """The queries of one head of a sequence, and the offset of its keys in tables by key."""

    seq: Any
    head: Any
    num_q: Any
    num_k: Any
    shift: Any
    key_row: Any


@triton.jit(do_not_specialize=VARYING)
def attention_delta_kernel(
    dout, out, dlse, delta, num_rows, total_q, num_heads, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_DV: tl.constexpr,
):  # fmt: skip
    # Grid: tiles of rows (batch, query, head), the head fastest. delta (batch, head, query) = <dout, out> -
    # dlse.
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    kept = row < num_rows
    head = row % num_heads
    i = row // num_heads % total_q
    batch = row // num_heads // total_q
    dims = tl.arange(0, BLOCK_DV)[None, :]
    dout_rows = batch * dout.stride_b + i * dout.stride_m + head * dout.stride_h
    out_rows = batch * out.stride_b + i * out.stride_m + head * out.stride_h
    dout_tile = load_rows(dout.ptr + dout_rows[:, None] + dims, kept, HEAD_DIM_V, True)
    out_tile = load_rows(out.ptr + out_rows[:, None] + dims, kept, HEAD_DIM_V, True)
    result = tl.sum(dout_tile.to(tl.float32) * out_tile.to(tl.float32), 1)
    place = (batch * num_heads + head) * total_q + i
    if dlse is not None:
        result -= tl.load(dlse + place, mask=kept, other=0.0)
    tl.store(delta + place, result, mask=kept)


@triton.jit
def row_lse(lse, place, kept):
    """lse times log2(e); inf where a row sees no key or does not exist, so that its probabilities are 0."""
    value = tl.load(lse + place, mask=kept, other=float("-inf"))
    return tl.where(value == float("-inf"), float("inf"), value * LOG2_E)


@triton.jit
def load_query_tile(
    q, dout, lse, delta, batch, head, num_heads, total_q, seq, rows, HEAD_DIM: tl.constexpr,
    HEAD_DIM_V: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """The `QueryTile` of rows of one head."""
    q_ptrs = row_ptrs(q, batch, seq.q_begin, rows.i, head, BLOCK_D)
    dout_ptrs = row_ptrs(dout, batch, seq.q_begin, rows.i, head, BLOCK_DV)
    place = (batch.to(tl.int64) * num_heads + head) * total_q + seq.q_begin + rows.i
    return QueryTile(
        load_rows(q_ptrs, rows.kept, HEAD_DIM, True),
        load_rows(dout_ptrs, rows.kept, HEAD_DIM_V, True),
        row_lse(lse, place, rows.kept),
        tl.load(delta + place, mask=rows.kept, other=0.0),
    )


@triton.jit
def score_gradient(
    queries, k_tile, v_tile, j, start, stop, valid, rows, seq, tables, score, sink_tokens,
    MASKED: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of the scores after the softcap (rows, BLOCK_N), 0 where masked; and the softcap's tanh."""
    qk = tl.dot(queries.q, tl.trans(k_tile), input_precision=PRECISION)
    s, capped = scores(qk, rows.p[:, None], j[None, :], rows.head[:, None], score)
    probs = tl.exp2(exponents(s, queries.lse[:, None], score))
    dprobs = tl.dot(queries.dout, tl.trans(v_tile), input_precision=PRECISION)
    if score.seed is not None:
        keep = dropout_keep(score, rows.p[:, None], start, rows.head[:, None], seq.index, False, BLOCK_N)
        dprobs = tl.where(keep, dprobs * score.keep_scale, 0.0)
    ds = probs * (dprobs - queries.delta[:, None])
    if MASKED:
        seen = seen_keys(j, stop, rows, valid, tables, seq.key_row, sink_tokens)
        ds = tl.where(seen, ds, 0.0)
        capped = tl.where(seen, capped, 0.0)
    return ds, capped


@triton.jit
def query_gradient_tile(
    dq_tile, start, stop, queries, kv, rows, seq, tables, score, sink_tokens, MASKED: tl.constexpr,
    MIXED: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dq / softmax_scale plus the contribution of keys [start, start + BLOCK_N).

    MIXED is whether the rows are of several segments: inf and NaN in one segment must not reach another.
    """
    j = start + tl.arange(0, BLOCK_N)
    valid = valid_keys(j, rows, tables, seq.key_row) if MASKED else j >= 0
    k_tile = load_first(kv, start, valid, HEAD_DIM, MASKED)
    v_tile = load_second(kv, start, valid, HEAD_DIM_V, MASKED)
    ds, capped = score_gradient(
        queries, k_tile, v_tile, j, start, stop, valid, rows, seq, tables, score, sink_tokens, MASKED,
        BLOCK_N, PRECISION,
    )  # fmt: skip
    if score.softcap is not None:
        ds = ds * (1.0 - capped * capped)
    if MIXED:
        k_tile, _ = finite_rows(k_tile)
    return tl.dot(ds.to(k_tile.dtype), k_tile, dq_tile, input_precision=PRECISION)


@triton.jit(do_not_specialize=VARYING)
def attention_backward_q_kernel(
    q, k, v, dout, k_blocks, v_blocks, dq, lse, delta, tables, score, left, right, sink_tokens, chunk,
    chunk_origin, offset, total_q, total_k, num_seqs, num_heads, num_tiles, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: batch x heads x tiles of queries, the last fastest; over the tiles of keys that one of them sees.
    tile = tl.program_id(0) % num_tiles
    head = tl.program_id(0) // num_tiles % num_heads
    batch = tl.program_id(0) // num_tiles // num_heads
    seq, rows = query_tile(
        batch, head, tile, tables, Rule(left, right, sink_tokens, chunk), chunk_origin, offset, total_q,
        total_k, num_seqs, GROUP, False, BLOCK_M,
    )  # fmt: skip
    if tl.max(rows.kept.to(tl.int32)) == 0:
        return
    tiles = key_tiles(rows, seq, tables, sink_tokens, 0, 1, BLOCK_N)

    queries = load_query_tile(
        q, dout, lse, delta, batch, head, num_heads, total_q, seq, rows, HEAD_DIM, HEAD_DIM_V, BLOCK_D,
        BLOCK_DV,
    )  # fmt: skip
    kv = walk(k, v, batch, seq.k_begin, seq.kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
    kv = Pair(kv, k_blocks, v_blocks)
    MIXED: tl.constexpr = tables.segment_ids is not None
    dq_tile = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if tables.kv_mask is None and not MIXED:
        for t in tl.range(tiles.clear_first, tiles.clear_last):
            dq_tile = query_gradient_tile(
                dq_tile, tiles.begin + t * BLOCK_N, seq.num_k, queries, kv, rows, seq, tables, score,
                sink_tokens, False, MIXED, HEAD_DIM, HEAD_DIM_V, BLOCK_N, PRECISION,
            )  # fmt: skip
    for t in tl.range(0, tiles.num_masked):
        start, stop = masked_tile(t, tiles, seq.num_k, sink_tokens, BLOCK_N)
        dq_tile = query_gradient_tile(
            dq_tile, start, stop, queries, kv, rows, seq, tables, score, sink_tokens, True, MIXED, HEAD_DIM,
            HEAD_DIM_V, BLOCK_N, PRECISION,
        )  # fmt: skip
    dq_ptrs = row_ptrs(dq, batch, seq.q_begin, rows.i, head, BLOCK_D)
    store_rows(dq_ptrs, dq_tile * score.scale, rows.kept, HEAD_DIM)


@triton.jit
def key_gradient_tile(
    dk_tile, dv_tile, start, keys, q_dout, lse, delta, queries, tables, score, MASKED: tl.constexpr,
    MIXED: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk / softmax_scale and dv plus the contribution of queries [start, start + BLOCK_M); rows are keys.

    lse and delta begin at the sequence's first query. MIXED is as in query_gradient_tile.
    """
    i = start + tl.arange(0, BLOCK_M)
    kept = i < queries.num_q
    p = i.to(tl.int64) + queries.shift
    lse_row = row_lse(lse, i, kept)
    if MASKED:  # rows that see no key are not read
        kept = kept & (lse_row < float("inf"))
    q_tile = load_first(q_dout, start, kept, HEAD_DIM, MASKED)
    dout_tile = load_second(q_dout, start, kept, HEAD_DIM_V, MASKED)
    delta_row = tl.load(delta + i, mask=kept, other=0.0)
    qk = tl.dot(keys.k, tl.trans(q_tile), input_precision=PRECISION)
    s, capped = scores(qk, p[None, :], keys.j[:, None], queries.head, score)
    exponent = exponents(s, lse_row[None, :], score)
    if MASKED:
        seen = in_span(i[None, :], keys.begin[:, None], keys.end[:, None])
        if tables.segment_ids is not None:
            segment, has_segment = own_segment(tables, queries.key_row, p, queries.num_k)
            in_seq = keys.j < queries.num_k
            key_segment = tl.load(tables.segment_ids + queries.key_row + keys.j, mask=in_seq, other=0)
            seen = seen & has_segment[None, :] & (key_segment[:, None] == segment[None, :])
        if not MIXED:
            exponent = tl.where(seen, exponent, float("-inf"))
    probs = tl.exp2(exponent)
    if MIXED:
        q_tile, _ = finite_rows(q_tile)
        dout_tile, bad = finite_rows(dout_tile)
        probs = tl.where(bad[None, :], float("nan"), probs)
        probs = tl.where(seen, probs, 0.0)
    dprobs = tl.dot(keys.v, tl.trans(dout_tile), input_precision=PRECISION)
    dropped = probs
    if score.seed is not None:
        first_key = tl.min(keys.j)
        keep = dropout_keep(score, p[None, :], first_key, queries.head, queries.seq, True, BLOCK_N)
        dropped = tl.where(keep, probs * score.keep_scale, 0.0)
        dprobs = tl.where(keep, dprobs * score.keep_scale, 0.0)
    dv_tile = tl.dot(dropped.to(dout_tile.dtype), dout_tile, dv_tile, input_precision=PRECISION)
    ds = probs * (dprobs - delta_row[None, :])
    if score.softcap is not None:
        ds = ds * (1.0 - capped * capped)
    if MASKED:  # masked, also where delta or dout.v is not finite
        ds = tl.where(probs == 0, 0.0, ds)
    dk_tile = tl.dot(ds.to(q_tile.dtype), q_tile, dk_tile, input_precision=PRECISION)
    return dk_tile, dv_tile


@triton.jit(do_not_specialize=VARYING)
def attention_backward_kv_kernel(
    q, k, v, dout, q_blocks, dout_blocks, dk, dv, lse, delta, tables, score, left, right, sink_tokens, chunk,
    chunk_origin, offset, total_q, total_k, num_seqs, num_heads, num_tiles, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: batch x kv heads x tiles of keys, the last fastest; over the group's heads, and for each over the
    # tiles of queries that see one of the keys.
    kv_heads = num_heads // GROUP
    tile = tl.program_id(0) % num_tiles
    kv_head = tl.program_id(0) // num_tiles % kv_heads
    batch = tl.program_id(0) // num_tiles // kv_heads
    seq = batch
    if tables.cu_seqlens_k is not None:
        seq, tile = locate(tile, tables.cu_seqlens_k, num_seqs, BLOCK_N, 1)
        if seq >= num_seqs:
            return
    q_begin, num_q = sequence_rows(tables.cu_seqlens_q, seq, total_q)
    k_begin, num_k = sequence_rows(tables.cu_seqlens_k, seq, total_k)
    if tile * BLOCK_N >= num_k:
        return
    j = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    bounds = sequence_keys(tables, seq, offset, chunk_origin, num_q, num_k)
    key_row = batch.to(tl.int64) * total_k + k_begin
    rule = Rule(left, right, sink_tokens, chunk)
    begin, end = visible_queries(j.to(tl.int64), rule, bounds, tables, key_row, num_q, num_k)
    seen = begin < end
    # Queries [first, last) see a key of the tile; those of the tiles [clear_first, clear_last) see all.
    first = tl.min(tl.where(seen, begin, num_q))
    last = tl.max(tl.where(seen, end, 0))
    num_steps = tl.cdiv(tl.maximum(last - first, 0), BLOCK_M)
    clear_first, clear_last = 0, 0
    MIXED: tl.constexpr = tables.segment_ids is not None
    if not MIXED:
        clear_first = tl.minimum(tl.cdiv(tl.maximum(tl.max(begin) - first, 0), BLOCK_M), num_steps)
        clear_last = tl.maximum(tl.min(tl.where(seen, end, 0)) - first, 0) // BLOCK_M
        clear_last = tl.maximum(clear_last, clear_first)

    k_tile = load_rows(row_ptrs(k, batch, k_begin, j, kv_head, BLOCK_D), seen, HEAD_DIM, True)
    v_tile = load_rows(row_ptrs(v, batch, k_begin, j, kv_head, BLOCK_DV), seen, HEAD_DIM_V, True)
    keys = KeyTile(k_tile, v_tile, j, begin, end)
    dk_tile = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv_tile = tl.zeros([BLOCK_N, BLOCK_DV], tl.float32)
    for member in tl.range(0, GROUP):
        head = kv_head * GROUP + member
        q_dout = walk(q, dout, batch, q_begin, head, BLOCK_M, BLOCK_D, BLOCK_DV)
        q_dout = Pair(q_dout, q_blocks, dout_blocks)
        row = (batch.to(tl.int64) * num_heads + head) * total_q + q_begin
        queries = Queries(seq, head, num_q, num_k, bounds.shift, key_row)
        if not MIXED:
            for t in tl.range(clear_first, clear_last):
                dk_tile, dv_tile = key_gradient_tile(
                    dk_tile, dv_tile, first + t * BLOCK_M, keys, q_dout, lse + row, delta + row, queries,
                    tables, score, False, MIXED, HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N, PRECISION,
                )  # fmt: skip
        for t in tl.range(0, num_steps - (clear_last - clear_first)):
            step = t + tl.where(t < clear_first, 0, clear_last - clear_first)
            dk_tile, dv_tile = key_gradient_tile(
                dk_tile, dv_tile, first + step * BLOCK_M, keys, q_dout, lse + row, delta + row, queries,
                tables, score, True, MIXED, HEAD_DIM, HEAD_DIM_V, BLOCK_M, BLOCK_N, PRECISION,
            )  # fmt: skip
    kept = j < num_k
    dk_ptrs = row_ptrs(dk, batch, k_begin, j, kv_head, BLOCK_D)
    store_rows(dk_ptrs, dk_tile * score.scale, kept, HEAD_DIM)
    store_rows(row_ptrs(dv, batch, k_begin, j, kv_head, BLOCK_DV), dv_tile, kept, HEAD_DIM_V)
