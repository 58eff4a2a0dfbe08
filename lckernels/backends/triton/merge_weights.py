"""The weight of each chunk at a position: the counterpart of csrc/cpu/overlap/kernel/weights.h.

The only place in Triton that computes merge weights and reads the plan's tensors. Indices are clamped, so
that no address outside the tensors is used.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from lckernels.backends.triton.launch import launch
from lckernels.plan import PlanArgs
from lckernels.segments import TILE_LEN, Column

TILE = tl.constexpr(TILE_LEN)
# The names in kernels of the values of `sizes`, which vary from call to call.
SIZES = ("num_segments", "num_chunks", "chunk_len", "total_len")
_NUM_COLUMNS = tl.constexpr(len(Column))
_ROW, _COL, _START, _LENGTH, _KEEP_START, _KEEP_END, _STARTS, _ENDS, _FILL_START, _FILL_END = (
    tl.constexpr(int(column)) for column in Column
)


def chunk_merge_weights(weights: str | Tensor, plan: PlanArgs, dtype: torch.dtype) -> Tensor:
    """(num_chunks, chunk_len), fp32 or fp64: the normalized weight of each column."""
    mode, table = mode_and_table(weights, plan)
    merge_weights = plan.segments.new_zeros(plan.num_chunks, plan.chunk_len, dtype=dtype)
    _launch(mode, table, None, plan, dtype, merge_weights)
    return merge_weights


def weights_gradient(table: Tensor, dots: Tensor, plan: PlanArgs) -> Tensor:
    """Like the table of explicit weights; dots (num_chunks, chunk_len) are <dout, x> of covered columns."""
    table = table.contiguous()
    dtable = torch.zeros_like(table)
    _launch("explicit", table, dots, plan, dots.dtype, dtable)
    return dtable


def mode_and_table(weights: str | Tensor, plan: PlanArgs) -> tuple[str, Tensor | None]:
    """MODE of `segment_weights`, and the table of explicit weights."""
    if not isinstance(weights, Tensor):
        return weights, None
    if weights.shape != (plan.num_chunks, plan.chunk_len):
        expected = f"expected (num_chunks, chunk_len) = {(plan.num_chunks, plan.chunk_len)}"
        raise ValueError(f"weights: got shape {tuple(weights.shape)}; {expected}")
    return "explicit", weights.contiguous()


def plan_tensors(plan: PlanArgs) -> tuple[Tensor, Tensor]:
    """segments and tile_segments, contiguous and of checked shapes."""
    segments, tiles = plan.segments, plan.tile_segments
    num_tiles = -(-plan.total_len // TILE_LEN)
    if segments.shape[1:] != (len(Column),) or tiles.shape != (num_tiles, 2):
        shapes = f"segments {tuple(segments.shape)} and tile_segments {tuple(tiles.shape)}"
        expected = f"(num_segments, {len(Column)}) and ({num_tiles}, 2)"
        raise ValueError(f"plan: got {shapes}; expected {expected} for total_len {plan.total_len}")
    return segments.contiguous(), tiles.contiguous()


def sizes(plan: PlanArgs) -> tuple[int, int, int, int]:
    return plan.segments.shape[0], plan.num_chunks, plan.chunk_len, plan.total_len


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The dtype of sums."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def _launch(
    mode: str, table: Tensor | None, dots: Tensor | None, plan: PlanArgs, dtype: torch.dtype, out: Tensor
) -> None:
    launch(
        _merge_weights_kernel, -(-plan.total_len // TILE_LEN), out,
        table, dots, *plan_tensors(plan), out, *sizes(plan), MODE=mode, ACC=accumulator(dtype), num_warps=2,
    )  # fmt: skip


@triton.jit
def segment_at(segments, n, num_chunks, chunk_len, total_len):
    """A segment's fields, and its row, col, start and length in int64, clamped to the tensors.

    A segment that begins outside has row -1 and length 0.
    """
    fields = segments + n * _NUM_COLUMNS
    row = tl.load(fields + _ROW).to(tl.int64)
    col = tl.load(fields + _COL).to(tl.int64)
    start = tl.load(fields + _START).to(tl.int64)
    length = tl.load(fields + _LENGTH).to(tl.int64)
    inside = (row >= 0) & (row < num_chunks) & (col >= 0) & (start >= 0)
    room = tl.minimum(chunk_len - col, total_len - start)
    return fields, tl.where(inside, row, -1), col, start, tl.where(inside, tl.minimum(length, room), 0)


@triton.jit
def owned_columns(fields, row, chunk_len):
    """First and last + 1 of the columns that a segment owns when whole rows are written, in int64."""
    begin = tl.load(fields + _FILL_START).to(tl.int64)
    end = tl.load(fields + _FILL_END).to(tl.int64)
    return tl.maximum(begin, 0), tl.where(row >= 0, tl.minimum(end, chunk_len), 0)


@triton.jit
def segment_range(tile_segments, tile, num_segments):
    """First and last + 1 of the segments that may touch a tile, in int64."""
    begin = tl.load(tile_segments + 2 * tile).to(tl.int64)
    end = tl.load(tile_segments + 2 * tile + 1).to(tl.int64)
    return tl.maximum(begin, 0), tl.minimum(end, num_segments)


@triton.jit
def _sin_series(x):
    """sin(x) for x in [0, pi / 2] by its series, accurate to the last bits of x's dtype."""
    TERMS: tl.constexpr = 10 if x.dtype == tl.float64 else 6
    z = x * x
    total = tl.zeros_like(x)
    for k in tl.static_range(TERMS, 0, -1):
        total = (1 + total) * (z * (-1 / (2 * k * (2 * k + 1))))
    return x + x * total


@triton.jit
def segment_weights(table, fields, first_entry, length, u, MODE: tl.constexpr, ACC: tl.constexpr):
    """Weights at offsets u of a segment, 0 outside it; explicit ones begin at the table's first_entry.

    "add", the mode of unweighted sums, has the weights of "uniform".
    """
    covered = (u >= 0) & (u < length)
    if MODE == "explicit":
        return tl.load(table + first_entry + u, mask=covered, other=0).to(ACC)
    if MODE == "crop":
        covered &= (u >= tl.load(fields + _KEEP_START)) & (u < tl.load(fields + _KEEP_END))
    a = covered.to(ACC)
    if MODE == "triangular" or MODE == "hann":
        left = tl.where(tl.load(fields + _STARTS) != 0, length, u + 1)
        right = tl.where(tl.load(fields + _ENDS) != 0, length, length - u)
        m = tl.minimum(left, right).to(ACC)
        if MODE == "hann":
            sine = _sin_series(m * (1.57079632679489661923 / (length + 1).to(ACC)))
            m = sine * sine
        a = tl.where(covered, m, 0)
    return a


@triton.jit(do_not_specialize=SIZES)
def _merge_weights_kernel(
    table, dots, segments, tile_segments, out, num_segments, num_chunks, chunk_len, total_len,
    MODE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Grid: ceil(total_len / 64). Without dots: weight = a / sum a. With dots = <dout, x>: the gradient of the
    # weights, (dot - sum weight * dot) / sum a, and 0 at a zero weight whose dot is not finite.
    tile = tl.program_id(0).to(tl.int64)
    position = tile * TILE + tl.arange(0, TILE)
    weight_sum = tl.zeros([TILE], ACC)
    weighted = tl.zeros([TILE], ACC)
    begin, end = segment_range(tile_segments, tile, num_segments)
    for n in range(begin, end):
        fields, row, col, start, length = segment_at(segments, n, num_chunks, chunk_len, total_len)
        u = position - start
        entry = row * chunk_len + col
        a = segment_weights(table, fields, entry, length, u, MODE, ACC)
        weight_sum += a
        if dots is not None:
            weighted += a * tl.load(dots + entry + u, mask=a > 0, other=0)
    safe = tl.where(weight_sum > 0, weight_sum, 1)
    for n in range(begin, end):
        fields, row, col, start, length = segment_at(segments, n, num_chunks, chunk_len, total_len)
        u = position - start
        entry = row * chunk_len + col
        covered = (u >= 0) & (u < length)
        value = segment_weights(table, fields, entry, length, u, MODE, ACC)
        used = weight_sum > 0
        if dots is not None:
            dot = tl.load(dots + entry + u, mask=covered, other=0)
            used &= (value > 0) | (tl.abs(dot) < float("inf"))
            value = dot - weighted / safe
        value = tl.where(used, value / safe, 0)
        tl.store(out + entry + u, value.to(out.dtype.element_ty), mask=covered)
