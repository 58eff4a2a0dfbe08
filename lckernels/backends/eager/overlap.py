"""overlap_merge and overlap_split, segment by segment."""

import torch
from torch import Tensor

from lckernels import reference
from lckernels.checks import weights_error
from lckernels.dtypes import compute_dtype
from lckernels.plan import PlanArgs


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    if isinstance(weights, Tensor) and weights.device.type == "cpu":
        check_weights(weights, plan)
    return reference.overlap_merge(chunks, plan, weights)


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    dtype = compute_dtype(dout.dtype)
    rows = plan.segments.tolist()
    table, weight_sum = weights_and_sum(weights, plan, dtype)
    safe = torch.where(weight_sum > 0, weight_sum, 1)
    dchunks = dout.new_zeros(plan.num_chunks, plan.chunk_len, dout.shape[1])
    for (chunk, col, start, length, *_), a in zip(rows, table, strict=True):
        span = slice(start, start + length)
        weight = torch.where(weight_sum[span] > 0, a / safe[span], 0)[:, None]
        dchunks[chunk, col : col + length] = torch.where(weight > 0, weight * dout[span], 0).to(dout.dtype)
    if chunks is None:
        return dchunks, None
    dots = [
        (dout[start : start + length].to(dtype) * chunks[chunk, col : col + length].to(dtype)).sum(1)
        for chunk, col, start, length, *_ in rows
    ]
    weighted = [torch.where(a > 0, a * dot, 0) for a, dot in zip(table, dots, strict=True)]
    mean = overlap_add(weighted, rows, torch.zeros_like(weight_sum)) / safe
    dweights = weights.new_zeros(weights.shape)
    for (chunk, col, start, length, *_), a, dot in zip(rows, table, dots, strict=True):
        span = slice(start, start + length)
        read = (a > 0) | torch.isfinite(dot)
        gradient = torch.where(read & (weight_sum[span] > 0), (dot - mean[span]) / safe[span], 0)
        dweights[chunk, col : col + length] = gradient.to(weights.dtype)
    return dchunks, dweights


def weights_and_sum(weights: str | Tensor, plan: PlanArgs, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """The weights (length,) of each segment, and their sum (total_len,) at each position."""
    device, rows = plan.segments.device, plan.segments.tolist()
    table = [reference.segment_weights(row, weights, dtype).to(device) for row in rows]
    return table, overlap_add(table, rows, torch.zeros(plan.total_len, dtype=dtype, device=device))


def check_weights(weights: Tensor, plan: PlanArgs) -> None:
    """Raises `weights_error` for the first position with unusable weights."""
    rows = plan.segments.tolist()
    pieces = [weights[chunk, col : col + length] for chunk, col, _, length, *_ in rows]
    wrong = [(~((piece >= 0) & (piece < torch.inf))).float() for piece in pieces]
    bad = overlap_add(wrong, rows, torch.zeros(plan.total_len)) > 0
    weight_sum = overlap_add(pieces, rows, weights.new_zeros(plan.total_len))
    bad |= ~((weight_sum > 0) & (weight_sum < torch.inf))
    if bad.any():
        raise weights_error(int(bad.nonzero()[0]))


def overlap_add(pieces: list[Tensor], rows: list[list[int]], out: Tensor) -> Tensor:
    """Adds the piece of each segment to out at its positions; returns out."""
    for (_, _, start, length, *_), piece in zip(rows, pieces, strict=True):
        out[start : start + length] += piece
    return out


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return reference.overlap_split(sequence, plan)


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    rows = plan.segments.tolist()
    dtype = compute_dtype(dchunks.dtype)
    pieces = [dchunks[chunk, col : col + length].to(dtype) for chunk, col, _, length, *_ in rows]
    total = dchunks.new_zeros(plan.total_len, dchunks.shape[2], dtype=dtype)
    return overlap_add(pieces, rows, total).to(dchunks.dtype)
