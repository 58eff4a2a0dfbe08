"""overlap_merge and overlap_split in torch: as many calls for a thousand chunks as for ten."""

import torch
from torch import Tensor

from lckernels.backends.eager.columns import Columns
from lckernels.checks import weights_error
from lckernels.dtypes import compute_dtype
from lckernels.plan import PlanArgs


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    columns, dtype = Columns(plan), compute_dtype(chunks.dtype)
    if isinstance(weights, Tensor) and weights.device.type == "cpu":
        check_weights(weights, columns, plan.total_len)
    a = columns.weights(weights, dtype)
    x = chunks.flatten(0, 1)[columns.source].to(dtype)
    read = (a > 0) | torch.isfinite(x).all(-1)
    weighted = torch.where(read[:, None], a[:, None] * x, 0)
    total = columns.add(weighted, weighted.new_zeros(plan.total_len, chunks.shape[2]))
    weight_sum = columns.add(torch.where(read, a, 0), a.new_zeros(plan.total_len))[:, None]
    merged = torch.where(weight_sum > 0, total / torch.where(weight_sum > 0, weight_sum, 1), 0)
    return merged.to(chunks.dtype)


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    columns, dtype = Columns(plan), compute_dtype(dout.dtype)
    a = columns.weights(weights, dtype)
    weight_sum = columns.add(a, a.new_zeros(plan.total_len))[columns.target]
    safe = torch.where(weight_sum > 0, weight_sum, 1)
    weight = torch.where(weight_sum > 0, a / safe, 0)[:, None]
    dx = dout[columns.target]
    dchunks = dout.new_zeros(plan.num_chunks * plan.chunk_len, dout.shape[1])
    dchunks[columns.source] = torch.where(weight > 0, weight * dx, 0).to(dout.dtype)
    dchunks = dchunks.unflatten(0, (plan.num_chunks, plan.chunk_len))
    if chunks is None:
        return dchunks, None
    dots = (dx.to(dtype) * chunks.flatten(0, 1)[columns.source].to(dtype)).sum(1)
    weighted = columns.add(torch.where(a > 0, a * dots, 0), a.new_zeros(plan.total_len))
    read = (a > 0) | torch.isfinite(dots)
    gradient = (dots - weighted[columns.target] / safe) / safe
    dweights = weights.new_zeros(weights.numel())
    dweights[columns.source] = torch.where(read & (weight_sum > 0), gradient, 0).to(weights.dtype)
    return dchunks, dweights.view(weights.shape)


def check_weights(weights: Tensor, columns: Columns, total_len: int) -> None:
    """Raises `weights_error` for the first position with unusable weights."""
    a = weights.flatten()[columns.source]
    wrong = columns.add((~((a >= 0) & (a < torch.inf))).float(), torch.zeros(total_len, device="cpu")) > 0
    weight_sum = columns.add(a, a.new_zeros(total_len))
    wrong |= ~((weight_sum > 0) & (weight_sum < torch.inf))
    if wrong.any():
        raise weights_error(int(wrong.nonzero()[0]))


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    columns = Columns(plan)
    chunks = sequence.new_zeros(plan.num_chunks * plan.chunk_len, sequence.shape[1])
    chunks[columns.source] = sequence[columns.target]
    return chunks.unflatten(0, (plan.num_chunks, plan.chunk_len))


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    columns = Columns(plan)
    pieces = dchunks.flatten(0, 1)[columns.source].to(compute_dtype(dchunks.dtype))
    total = columns.add(pieces, pieces.new_zeros(plan.total_len, dchunks.shape[2]))
    return total.to(dchunks.dtype)
