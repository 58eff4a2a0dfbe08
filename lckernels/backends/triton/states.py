"""merge_attention_states: one program merges a block of rows of all states, in one pass.

Bytes that must move: the forward reads each state's out and lse once and writes one of each; the backward
reads them, dout, out, lse and dlse once and writes a gradient for each. A state whose weight is 0 at a row is
not read there. More than MAX_STATES states are merged in groups, each of which adds to sums in the
accumulator's dtype.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from lckernels.backends.triton.launch import Rows, launch, rows
from lckernels.backends.triton.tiles import power_of_two
from lckernels.reference import state_weights

MAX_STATES = 8  # of one kernel
_TILE_BYTES = 8192  # of a state's block in the forward; half of it in the backward
_SIZES = ("blocks", "seqlen")  # differ from call to call


def merge_attention_states(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    out = outs[0].new_empty(outs[0].shape)
    if len(outs) <= MAX_STATES:
        lse = lses[0].new_empty(lses[0].shape)
        _forward(outs, lses, None, out, lse)
        return out, lse
    weights, lse = state_weights(torch.stack(lses))
    sums = torch.zeros_like(out, dtype=lse.dtype)
    for first in range(0, len(outs), MAX_STATES):
        group = slice(first, first + MAX_STATES)
        last = first + MAX_STATES >= len(outs)
        _forward(outs[group], weights[group].unbind(), sums, out if last else sums, None)
    return out, lse


def merge_attention_states_backward(
    dout: Tensor | None, dlse: Tensor | None, outs: list[Tensor], lses: list[Tensor], out: Tensor, lse: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """douts and dlses."""
    douts, dlses = ([x.new_empty(x.shape) for x in xs] for xs in (outs, lses))
    grads = None if dout is None else rows(dout), None if dlse is None else _lse_rows(dlse)
    blocks = _blocks(out, _TILE_BYTES // 2)
    for first in range(0, len(outs), MAX_STATES):
        group = slice(first, first + MAX_STATES)
        launch(
            _backward_kernel, out.shape[0] * blocks.number, out,
            *grads, rows(out), _lse_rows(lse),
            tuple(map(rows, outs[group])), tuple(map(_lse_rows, lses[group])),
            tuple(map(rows, douts[group])), tuple(map(_lse_rows, dlses[group])),
            blocks.number, *out.shape[1:],
            NUM_STATES=len(outs[group]), BLOCK_M=blocks.block_m, BLOCK_D=blocks.block_d,
        )  # fmt: skip
    return douts, dlses


def _forward(
    outs: Sequence[Tensor], lses: Sequence[Tensor], sums: Tensor | None, out: Tensor, lse: Tensor | None
) -> None:
    """out and lse; with sums, `lses` are the states' weights, and out is sums plus the weighted states."""
    blocks = _blocks(outs[0], _TILE_BYTES)
    launch(
        _forward_kernel, out.shape[0] * blocks.number, out,
        tuple(map(rows, outs)), tuple(map(_lse_rows, lses)), None if sums is None else rows(sums), rows(out),
        None if lse is None else _lse_rows(lse), blocks.number, *out.shape[1:],
        NUM_STATES=len(outs), BLOCK_M=blocks.block_m, BLOCK_D=blocks.block_d,
    )  # fmt: skip


def _lse_rows(lse: Tensor) -> Rows:
    """(batch, heads, seqlen) with the strides in the order of the outs'."""
    batch, head, query = lse.stride()
    return Rows(lse, batch, query, head)


class _Blocks(NamedTuple):
    """Tiles of BLOCK_M rows of BLOCK_D elements (a whole row), and their number per row of the batch."""

    block_m: int
    block_d: int
    number: int


def _blocks(x: Tensor, tile_bytes: int) -> _Blocks:
    block_d = power_of_two(max(x.shape[3], 1))
    block_m = min(max(tile_bytes // (block_d * x.element_size()), 1), 128)
    return _Blocks(block_m, block_d, -(-(x.shape[1] * x.shape[2]) // block_m))


@triton.jit
def _block_rows(blocks, seqlen, num_heads, BLOCK_M: tl.constexpr):
    """Batch, queries and heads (BLOCK_M) of this program's rows, as int64, and which rows exist.

    Rows are in the order of out's memory, (batch, seqlen, heads), `blocks` blocks per row of the batch.
    """
    pid = tl.program_id(0)
    batch = (pid // blocks).to(tl.int64)
    first = (pid % blocks).to(tl.int64) * BLOCK_M
    # Relative to the first row these are small, which avoids divisions of int64 vectors.
    i = (first % num_heads).to(tl.int32) + tl.arange(0, BLOCK_M)
    query = first // num_heads + i // num_heads
    return batch, query, (i % num_heads).to(tl.int64), query < seqlen


@triton.jit
def _at(x, batch, query, head):
    return x.ptr + batch * x.stride_b + query * x.stride_m + head * x.stride_h


@triton.jit
def _load_rows(x, batch, query, head, d, mask):
    return tl.load(_at(x, batch, query, head)[:, None] + d[None, :], mask=mask, other=0)


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(
    outs, lses, sums, out, lse, blocks, seqlen, num_heads, head_dim,
    NUM_STATES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Grid: batch * blocks. With sums: lses are weights; see _forward.
    ACC: tl.constexpr = lses[0].ptr.dtype.element_ty
    batch, query, head, there = _block_rows(blocks, seqlen, num_heads, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    in_row = (d < head_dim)[None, :]
    if sums is None:
        total = tl.zeros([BLOCK_M, BLOCK_D], ACC)
        row_max = tl.full([BLOCK_M], float("-inf"), ACC)
        for i in tl.static_range(NUM_STATES):
            lse_i = tl.load(_at(lses[i], batch, query, head), mask=there, other=float("-inf"))
            row_max = tl.maximum(row_max, lse_i)
        row_max = tl.where(row_max == float("-inf"), 0, row_max)
        denominator = tl.zeros([BLOCK_M], ACC)
        for i in tl.static_range(NUM_STATES):
            lse_i = tl.load(_at(lses[i], batch, query, head), mask=there, other=float("-inf"))
            denominator += tl.exp(lse_i - row_max)
        safe = tl.where(denominator == 0, 1, denominator)
        merged = tl.where(denominator == 0, float("-inf"), row_max + tl.log(safe))
        tl.store(_at(lse, batch, query, head), merged, mask=there)
    else:
        total = _load_rows(sums, batch, query, head, d, there[:, None] & in_row)
    for i in tl.static_range(NUM_STATES):
        if sums is None:
            lse_i = tl.load(_at(lses[i], batch, query, head), mask=there, other=float("-inf"))
            weight = tl.exp(lse_i - row_max) / safe
        else:
            weight = tl.load(_at(lses[i], batch, query, head), mask=there, other=0)
        x = _load_rows(outs[i], batch, query, head, d, (weight != 0)[:, None] & in_row)
        total += weight[:, None] * x.to(ACC)
    to = _at(out, batch, query, head)[:, None] + d[None, :]
    tl.store(to, total.to(out.ptr.dtype.element_ty), mask=there[:, None] & in_row)


@triton.jit(do_not_specialize=_SIZES)
def _backward_kernel(
    dout, dlse, out, lse, outs, lses, douts, dlses, blocks, seqlen, num_heads, head_dim,
    NUM_STATES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Grid: batch * blocks.
    # dout_i = w_i dout and dlse_i = w_i (<dout, out_i - out> + dlse), w_i = exp(lse_i - lse).
    ACC: tl.constexpr = lse.ptr.dtype.element_ty
    batch, query, head, there = _block_rows(blocks, seqlen, num_heads, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    in_row = (d < head_dim)[None, :]
    total = tl.load(_at(lse, batch, query, head), mask=there, other=float("-inf"))
    seen = total != float("-inf")
    total = tl.where(seen, total, 0)
    read = seen[:, None] & in_row
    if dout is not None:
        dout_rows = _load_rows(dout, batch, query, head, d, read).to(ACC)
        out_rows = _load_rows(out, batch, query, head, d, read).to(ACC)
    if dlse is not None:
        dlse_row = tl.load(_at(dlse, batch, query, head), mask=there, other=0)
    for i in tl.static_range(NUM_STATES):
        lse_i = tl.load(_at(lses[i], batch, query, head), mask=there, other=float("-inf"))
        weight = tl.where(seen, tl.exp(lse_i - total), 0)
        gradient = tl.zeros([BLOCK_M], ACC)
        scaled = tl.zeros([BLOCK_M, BLOCK_D], ACC)
        if dout is not None:
            used = (weight != 0)[:, None]
            x = _load_rows(outs[i], batch, query, head, d, used & in_row).to(ACC)
            gradient += tl.sum(dout_rows * (x - out_rows), axis=1)
            scaled = tl.where(used, weight[:, None] * dout_rows, 0)
        if dlse is not None:
            gradient += dlse_row
        gradient = tl.where(weight != 0, weight * gradient, 0)
        to = _at(douts[i], batch, query, head)[:, None] + d[None, :]
        tl.store(to, scaled.to(douts[i].ptr.dtype.element_ty), mask=there[:, None] & in_row)
        tl.store(_at(dlses[i], batch, query, head), gradient, mask=there)
