"""overlap_merge and overlap_split: each output row gathers its inputs, in one pass.

Bytes that must move, of rows of dim elements: the merge and the backward of split read each covered column of
the chunks and write each position once. Split and the backward of merge read each position (again for each
further chunk that covers it, from the L2 cache) and write each column once; the gradient of
explicit weights reads the chunks besides. Merge weights and products are one fp32 (fp64 for fp64) a column.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lckernels.backends.shared.tensor_rows import contiguous_rows
from lckernels.backends.triton.launch import launch
from lckernels.backends.triton.merge_weights import (
    SIZES,
    TILE,
    accumulator,
    chunk_merge_weights,
    mode_and_table,
    owned_columns,
    plan_tensors,
    segment_at,
    segment_range,
    segment_weights,
    sizes,
    weights_gradient,
)
from lckernels.backends.triton.tiles import power_of_two
from lckernels.dtypes import compute_dtype
from lckernels.plan import PlanArgs
from lckernels.segments import TILE_LEN

_ROW_BYTES = 512  # of a block: 16 for each thread of a warp
_BLOCK_BYTES = 8192  # 64 for each of 128 threads


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    return _gather(chunks, *mode_and_table(weights, plan), plan)


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    merge_weights = chunk_merge_weights(weights, plan, compute_dtype(dout.dtype))
    if chunks is None:
        return _scatter(dout, plan, merge_weights), None
    dots = torch.empty_like(merge_weights)
    dchunks = _scatter(dout, plan, merge_weights, chunks, dots)
    return dchunks, weights_gradient(weights, dots, plan)


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return _scatter(sequence, plan)


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    return _gather(dchunks, "add", None, plan)


def _gather(chunks: Tensor, mode: str, table: Tensor | None, plan: PlanArgs) -> Tensor:
    """(total_len, dim): the weighted mean, or the sum, of the columns that land on each position."""
    if chunks.shape[:2] != (plan.num_chunks, plan.chunk_len):
        expected = f"expected (num_chunks, chunk_len) = {(plan.num_chunks, plan.chunk_len)}"
        raise ValueError(f"chunks: got shape {tuple(chunks.shape)}; {expected}")
    chunks = contiguous_rows(chunks)
    out = chunks.new_empty(plan.total_len, chunks.shape[2])
    block_m, block_n = _blocks(out)
    dim_programs = -(-out.shape[1] // block_n)
    launch(
        _gather_kernel, -(-plan.total_len // block_m) * dim_programs, out,
        chunks, table, *plan_tensors(plan), out, *sizes(plan), dim_programs,
        out.shape[1], *chunks.stride()[:2],
        MODE=mode, ACC=accumulator(out.dtype), BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return out


def _scatter(
    sequence: Tensor,
    plan: PlanArgs,
    merge_weights: Tensor | None = None,
    chunks: Tensor | None = None,
    dots: Tensor | None = None,
) -> Tensor:
    """(num_chunks, chunk_len, dim): the position of each column, times its weight; 0 where it has none.

    With chunks, dots (num_chunks, chunk_len) become the products of the covered columns with their positions.
    """
    sequence = contiguous_rows(sequence)
    out = sequence.new_empty(plan.num_chunks, plan.chunk_len, sequence.shape[1])
    if chunks is not None:
        if chunks.shape != out.shape:
            raise ValueError(f"chunks: got shape {tuple(chunks.shape)}; expected {tuple(out.shape)}")
        chunks = contiguous_rows(chunks)
    block_m, block_n = _blocks(out)
    segments, _ = plan_tensors(plan)
    column_programs = -(-plan.chunk_len // block_m)
    dim_programs = -(-out.shape[2] // block_n) if dots is None else 1
    launch(
        _scatter_kernel, segments.shape[0] * column_programs * dim_programs, out,
        sequence, merge_weights, chunks, dots, segments, out, *sizes(plan), column_programs, dim_programs,
        out.shape[2], sequence.stride(0), *(0, 0) if chunks is None else chunks.stride()[:2],
        BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return out


def _blocks(x: Tensor) -> tuple[int, int]:
    """BLOCK_M rows of BLOCK_N elements; BLOCK_M divides TILE_LEN."""
    size = x.element_size()
    block_n = min(power_of_two(max(x.shape[-1], 1)), _ROW_BYTES // size)
    return min(_BLOCK_BYTES // (block_n * size), TILE_LEN), block_n


@triton.jit(do_not_specialize=(*SIZES, "dim_programs"))
def _gather_kernel(
    chunks, table, segments, tile_segments, out,
    num_segments, num_chunks, chunk_len, total_len, dim_programs, dim, chunk_stride, column_stride,
    MODE: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Grid: ceil(total_len / BLOCK_M) * dim_programs, the latter fastest.
    pid = tl.program_id(0)
    first = (pid // dim_programs).to(tl.int64) * BLOCK_M
    position = first + tl.arange(0, BLOCK_M)
    d = (pid % dim_programs).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_dim = (d < dim)[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], ACC)
    weight_sum = tl.zeros([BLOCK_M], ACC)
    begin, end = segment_range(tile_segments, first // TILE, num_segments)
    for n in range(begin, end):
        fields, row, col, start, length = segment_at(segments, n, num_chunks, chunk_len, total_len)
        u = position - start
        a = segment_weights(table, fields, row * chunk_len + col, length, u, MODE, ACC)
        x_rows = row * chunk_stride + (col + u) * column_stride
        x = tl.load(chunks + x_rows[:, None] + d[None, :], mask=(a != 0)[:, None] & in_dim, other=0)
        total += a[:, None] * x.to(ACC)
        weight_sum += a
    if MODE != "add":
        safe = tl.where(weight_sum > 0, weight_sum, 1)
        total = tl.where((weight_sum > 0)[:, None], total / safe[:, None], 0)
    mask = (position < total_len)[:, None] & in_dim
    tl.store(out + (position * dim)[:, None] + d[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=(*SIZES, "column_programs", "dim_programs"))
def _scatter_kernel(
    sequence, merge_weights, chunks, dots, segments, out,
    num_segments, num_chunks, chunk_len, total_len, column_programs, dim_programs, dim,
    position_stride, chunk_stride, column_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Grid: num_segments * column_programs * dim_programs, the last fastest, and 1 with dots. Blocks past the
    # columns that a segment owns write nothing.
    pid = tl.program_id(0)
    first = (pid % dim_programs).to(tl.int64) * BLOCK_N
    pid = pid // dim_programs
    n = (pid // column_programs).to(tl.int64)
    fields, row, col, start, length = segment_at(segments, n, num_chunks, chunk_len, total_len)
    begin, end = owned_columns(fields, row, chunk_len)
    column = begin + (pid % column_programs).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    owned = column < end
    u = column - col
    covered = owned & (u >= 0) & (u < length)
    entry = row * chunk_len + column
    read = covered
    if merge_weights is not None:
        weight = tl.load(merge_weights + entry, mask=covered, other=0)
        if dots is None:
            read = weight != 0
    if dots is not None:
        dot = tl.zeros([BLOCK_M, BLOCK_N], dots.dtype.element_ty)
    for block in range(first, dim, dim_programs * BLOCK_N):
        d = block + tl.arange(0, BLOCK_N)
        in_dim = (d < dim)[None, :]
        mask = read[:, None] & in_dim
        value = tl.load(sequence + ((start + u) * position_stride)[:, None] + d[None, :], mask=mask, other=0)
        if dots is not None:
            x_rows = row * chunk_stride + column * column_stride
            x = tl.load(chunks + x_rows[:, None] + d[None, :], mask=mask, other=0)
            dot += value.to(dot.dtype) * x.to(dot.dtype)
        if merge_weights is not None:
            value = tl.where((weight != 0)[:, None], weight[:, None] * value.to(weight.dtype), 0)
        to = out + (entry * dim)[:, None] + d[None, :]
        tl.store(to, value.to(out.dtype.element_ty), mask=owned[:, None] & in_dim)
    if dots is not None:
        tl.store(dots + entry, tl.sum(dot, axis=1), mask=covered)
