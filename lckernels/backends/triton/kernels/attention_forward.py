"""The forward of windowed_attention: online softmax over the tiles of keys that a tile of queries sees.

Source: FlashAttention-2 (Dao, 2023); packing the heads of a group into one tile's rows is flash-attn's.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from lckernels.backends.triton.kernels.key_tiles import (
    VARYING,
    key_tiles,
    masked_tile,
    query_tile,
    seen_keys,
    valid_keys,
)
from lckernels.backends.triton.kernels.score import LN_2, LOG2_E, dropout_keep, scores
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
from lckernels.backends.triton.kernels.window import Rule


class Softmax(NamedTuple):
    """An online softmax of scores s: the sum of exp2(unit (s - row_max)) v, the largest s, the sum of
    exp2(unit (s - row_max)).
    """

    acc: Any
    row_max: Any
    row_sum: Any


@triton.jit
def upright(q_tile, score):
    """q, negated where score.flips, so that the largest score has the largest probability."""
    return q_tile if score.flips is None else -q_tile


@triton.jit
def no_keys(ROWS: tl.constexpr, BLOCK_DV: tl.constexpr):
    """The softmax over no keys."""
    row_max = tl.full([ROWS], float("-inf"), tl.float32)
    return Softmax(tl.zeros([ROWS, BLOCK_DV], tl.float32), row_max, tl.zeros([ROWS], tl.float32))


@triton.jit
def attend_tile(
    state, start, stop, q_tile, kv, rows, seq, tables, score, sink_tokens, MASKED: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The softmax after the keys [start, start + BLOCK_N); keys from `stop` on are masked."""
    j = start + tl.arange(0, BLOCK_N)
    valid = valid_keys(j, rows, tables, seq.key_row) if MASKED else j >= 0
    k_tile = load_first(kv, start, valid, HEAD_DIM, MASKED)
    qk = tl.dot(q_tile, tl.trans(k_tile), input_precision=PRECISION)
    s, _ = scores(qk, rows.p[:, None], j[None, :], rows.head[:, None], score)
    if MASKED:
        seen = seen_keys(j, stop, rows, valid, tables, seq.key_row, sink_tokens)
        s = tl.where(seen, s, float("-inf"))
    row_max = tl.maximum(state.row_max, tl.max(s, 1))
    base = tl.where(row_max == float("-inf"), 0.0, row_max)
    # Subtract before scaling: in one fused step large scores would not be at most their maximum.
    e = tl.exp2((s - base[:, None]) * score.unit)
    decay = tl.exp2((state.row_max - base) * score.unit)
    row_sum = state.row_sum * decay + tl.sum(e, 1)
    acc = state.acc * decay[:, None]
    if score.seed is not None:
        keep = dropout_keep(score, rows.p[:, None], start, rows.head[:, None], seq.index, False, BLOCK_N)
        e = tl.where(keep, e, 0.0)
    v_tile = load_second(kv, start, valid, HEAD_DIM_V, MASKED)
    if tables.segment_ids is not None:
        v_tile, bad = finite_rows(v_tile)
        poisoned = tl.max((seen & bad[None, :]).to(tl.int32), 1) > 0
        acc = tl.where(poisoned[:, None], float("nan"), acc)
    acc = tl.dot(e.to(v_tile.dtype), v_tile, acc, input_precision=PRECISION)
    return Softmax(acc, row_max, row_sum)


@triton.jit
def add_sink(state, sink):
    """The softmax with exp2(sink) in its denominator; its unit is 1."""
    row_max = tl.maximum(state.row_max, sink)
    base = tl.where(row_max == float("-inf"), 0.0, row_max)
    decay = tl.exp2(state.row_max - base)
    row_sum = state.row_sum * decay + tl.exp2(sink - base)
    return Softmax(state.acc * decay[:, None], row_max, row_sum)


@triton.jit(do_not_specialize=VARYING)
def attention_forward_kernel(
    q, k, v, k_blocks, v_blocks, out, lse, tables, score, left, right, sink_tokens, chunk, chunk_origin,
    offset, total_q, total_k, num_seqs, num_heads, num_tiles, num_splits, GROUP: tl.constexpr,
    PACK: tl.constexpr, HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: batch x heads (kv heads with PACK) x tiles of rows x splits of the keys, the last fastest. A row
    # is a query, or with PACK one head of a query's group. Each split writes its own out and lse.
    tile_heads = num_heads // (GROUP if PACK else 1)
    split = tl.program_id(0) % num_splits
    tile = tl.program_id(0) // num_splits % num_tiles
    head = tl.program_id(0) // num_splits // num_tiles % tile_heads
    batch = tl.program_id(0) // num_splits // num_tiles // tile_heads
    seq, rows = query_tile(
        batch, head, tile, tables, Rule(left, right, sink_tokens, chunk), chunk_origin, offset, total_q,
        total_k, num_seqs, GROUP, PACK, BLOCK_M,
    )  # fmt: skip
    if tl.max(rows.kept.to(tl.int32)) == 0:
        return
    tiles = key_tiles(rows, seq, tables, sink_tokens, split, num_splits, BLOCK_N)

    q_ptrs = row_ptrs(q, batch, seq.q_begin, rows.i, rows.head, BLOCK_D)
    q_tile = upright(load_rows(q_ptrs, rows.kept, HEAD_DIM, True), score)
    kv = walk(k, v, batch, seq.k_begin, seq.kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
    kv = Pair(kv, k_blocks, v_blocks)
    state = no_keys(BLOCK_M, BLOCK_DV)
    if tables.kv_mask is None and tables.segment_ids is None:
        for t in tl.range(tiles.clear_first, tiles.clear_last):
            state = attend_tile(
                state, tiles.begin + t * BLOCK_N, seq.num_k, q_tile, kv, rows, seq, tables, score,
                sink_tokens, False, HEAD_DIM, HEAD_DIM_V, BLOCK_N, PRECISION,
            )  # fmt: skip
    for t in tl.range(0, tiles.num_masked):
        start, stop = masked_tile(t, tiles, seq.num_k, sink_tokens, BLOCK_N)
        state = attend_tile(
            state, start, stop, q_tile, kv, rows, seq, tables, score, sink_tokens, True, HEAD_DIM,
            HEAD_DIM_V, BLOCK_N, PRECISION,
        )  # fmt: skip

    state = Softmax(state.acc, state.row_max * score.unit, state.row_sum)
    if score.sink_logits is not None:
        sink = tl.load(score.sink_logits + rows.head) * LOG2_E
        state = add_sink(state, tl.where(split == 0, sink, float("-inf")))
    empty = state.row_sum == 0
    total = tl.where(empty, 1.0, state.row_sum)
    place = batch + split * (tl.num_programs(0) // num_splits // num_tiles // tile_heads)
    out_tile = state.acc * (score.keep_scale / total)[:, None]
    out_ptrs = row_ptrs(out, place, seq.q_begin, rows.i, rows.head, BLOCK_DV)
    store_rows(out_ptrs, out_tile, rows.kept, HEAD_DIM_V)
    lse_row = tl.where(empty, float("-inf"), (state.row_max + tl.log2(total)) * LN_2)
    lse_ptrs = lse + (place.to(tl.int64) * num_heads + rows.head) * total_q + seq.q_begin + rows.i
    tl.store(lse_ptrs, lse_row, mask=rows.kept)
