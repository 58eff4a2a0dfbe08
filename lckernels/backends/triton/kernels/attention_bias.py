"""The gradient of rel_bias: score gradients summed along the diagonals of their tiles, no atomics."""

import triton
import triton.language as tl

from lckernels.backends.triton.kernels.attention_backward import load_query_tile, score_gradient
from lckernels.backends.triton.kernels.key_tiles import (
    VARYING,
    key_tiles,
    masked_tile,
    query_tile,
    valid_keys,
)
from lckernels.backends.triton.kernels.score import FAR
from lckernels.backends.triton.kernels.tile_rows import Pair, load_first, load_second, walk
from lckernels.backends.triton.kernels.window import Rule


@triton.jit
def add_diagonals(strip, values, column, score, low, high):
    """Adds values to their columns; values of columns clamped to an end are summed in low and high."""
    last = score.bias_len - 1
    low += tl.sum(tl.where(column <= 0, values, 0.0))
    high += tl.sum(tl.where((column >= last) & (column > 0), values, 0.0))
    within = (column > 0) & (column < last)
    ptrs = strip + tl.where(within, column, 0)
    tl.store(ptrs, tl.load(ptrs, mask=within, other=0.0) + values, mask=within)
    tl.debug_barrier()  # the next vector's columns overlap these, in other threads
    return low, high


@triton.jit(do_not_specialize=VARYING)
def attention_backward_bias_kernel(
    q, k, v, dout, partial, lse, delta, tables, score, left, right, sink_tokens, chunk, chunk_origin, offset,
    total_q, total_k, num_seqs, num_heads, num_tiles, num_strips, GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr, HEAD_DIM_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Grid: batch x heads x strips, the last fastest; over every num_strips'th tile of queries, and for each
    # over the tiles of keys that it sees. partial: (batch, heads, strips, bias_len), zeros.
    head = tl.program_id(0) // num_strips % num_heads
    batch = tl.program_id(0) // num_strips // num_heads
    strip = partial + tl.program_id(0).to(tl.int64) * score.bias_len
    r = tl.arange(0, BLOCK_M)[:, None]
    n = tl.arange(0, BLOCK_N)
    # Row r is rotated left by r: column t has distance t from the first row's (t - BLOCK_N where it wraps).
    turned = (n[None, :] + r) % BLOCK_N
    wraps = n[None, :] + r >= BLOCK_N
    low, high = 0.0, 0.0
    for tile in range(tl.program_id(0) % num_strips, num_tiles, num_strips):
        seq, rows = query_tile(
            batch, head, tile, tables, Rule(left, right, sink_tokens, chunk), chunk_origin, offset, total_q,
            total_k, num_seqs, GROUP, False, BLOCK_M,
        )  # fmt: skip
        tiles = key_tiles(rows, seq, tables, sink_tokens, 0, 1, BLOCK_N)
        queries = load_query_tile(
            q, dout, lse, delta, batch, head, num_heads, total_q, seq, rows, HEAD_DIM, HEAD_DIM_V, BLOCK_D,
            BLOCK_DV,
        )  # fmt: skip
        kv = walk(k, v, batch, seq.k_begin, seq.kv_head, BLOCK_N, BLOCK_D, BLOCK_DV)
        kv = Pair(kv, None, None)
        num_clear = tiles.clear_last - tiles.clear_first
        for step in range(0, num_clear + tiles.num_masked):
            start, stop = masked_tile(step - num_clear, tiles, seq.num_k, sink_tokens, BLOCK_N)
            is_clear = step < num_clear
            start = tl.where(is_clear, tiles.begin + (tiles.clear_first + step) * BLOCK_N, start)
            stop = tl.where(is_clear, seq.num_k, stop)
            j = start + n
            valid = valid_keys(j, rows, tables, seq.key_row)
            k_tile = load_first(kv, start, valid, HEAD_DIM, True)
            v_tile = load_second(kv, start, valid, HEAD_DIM_V, True)
            ds, _ = score_gradient(
                queries, k_tile, v_tile, j, start, stop, valid, rows, seq, tables, score, sink_tokens, True,
                BLOCK_N, PRECISION,
            )  # fmt: skip
            diagonals = tl.gather(ds, turned, 1)
            column = start - tl.min(rows.p) + score.bias_center
            column = tl.minimum(tl.maximum(column, -FAR), FAR).to(tl.int32) + n
            near, wrapped = tl.where(wraps, 0.0, diagonals), tl.where(wraps, diagonals, 0.0)
            low, high = add_diagonals(strip, tl.sum(near, 0), column, score, low, high)
            low, high = add_diagonals(strip, tl.sum(wrapped, 0), column - BLOCK_N, score, low, high)
    tl.store(strip, tl.load(strip) + low)
    tl.debug_barrier()
    last = strip + score.bias_len - 1
    tl.store(last, tl.load(last) + high)
