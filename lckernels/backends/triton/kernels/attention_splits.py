"""Merging the splits of a forward: attention over parts of the keys, each with its own out and lse."""

import triton
import triton.language as tl

from lckernels.backends.triton.kernels.key_tiles import VARYING
from lckernels.backends.triton.kernels.score import LN_2, LOG2_E


@triton.jit(do_not_specialize=VARYING)
def merge_splits_kernel(
    partial_out, partial_lse, out, lse, num_rows, total_q, num_heads, num_splits, HEAD_DIM_V: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    # Grid: rows (batch, query, head), the head fastest. partial_out (splits, rows, HEAD_DIM_V) and
    # partial_lse (splits, batch, heads, queries) are fp32; a split without visible keys has lse -inf and
    # is not read.
    row = tl.program_id(0).to(tl.int64)
    head = row % num_heads
    i = row // num_heads % total_q
    place = (row // num_heads // total_q * num_heads + head) * total_q + i
    split = tl.arange(0, BLOCK_SPLITS)
    lses = tl.load(
        partial_lse + split.to(tl.int64) * num_rows + place, mask=split < num_splits, other=float("-inf")
    )
    row_max = tl.max(lses, 0)
    base = tl.where(row_max == float("-inf"), 0.0, row_max)
    e = tl.exp2((lses - base) * LOG2_E)
    total = tl.sum(e, 0)
    safe = tl.where(total == 0, 1.0, total)
    d = tl.arange(0, BLOCK_DV)
    parts = tl.load(
        partial_out + (split.to(tl.int64) * num_rows + row)[:, None] * HEAD_DIM_V + d[None, :],
        mask=(e > 0)[:, None] & (d < HEAD_DIM_V)[None, :],
        other=0.0,
    )
    merged = tl.sum(parts * (e / safe)[:, None], 0)
    tl.store(out + row * HEAD_DIM_V + d, merged.to(out.dtype.element_ty), mask=d < HEAD_DIM_V)
    tl.store(lse + place, tl.where(total == 0, float("-inf"), base + tl.log2(safe) * LN_2))
