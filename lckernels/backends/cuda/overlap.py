"""overlap_merge and overlap_split in CUDA."""

import torch
from torch import Tensor

from lckernels.backends.shared.compiled_arguments import mode_and_table
from lckernels.backends.shared.tensor_rows import contiguous_rows
from lckernels.plan import PlanArgs


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    return _gather(chunks, *mode_and_table(weights), plan)


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    mode, table = mode_and_table(weights)
    dchunks = _scatter(dout, mode, table, plan)
    if chunks is None:
        return dchunks, None
    dweights = torch.zeros_like(table)
    torch.ops.lckernels_cuda.overlap_weight_grad(
        contiguous_rows(dout), contiguous_rows(chunks), table, plan.segments, plan.tile_segments, dweights
    )
    return dchunks, dweights


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return _scatter(sequence, "add", None, plan)


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    return _gather(dchunks, "add", None, plan)


def _gather(chunks: Tensor, mode: str, table: Tensor | None, plan: PlanArgs) -> Tensor:
    out = chunks.new_empty(plan.total_len, chunks.shape[2])
    torch.ops.lckernels_cuda.overlap_gather(
        contiguous_rows(chunks), table, plan.segments, plan.tile_segments, mode, out
    )
    return out


def _scatter(sequence: Tensor, mode: str, table: Tensor | None, plan: PlanArgs) -> Tensor:
    out = sequence.new_empty(plan.num_chunks, plan.chunk_len, sequence.shape[1])
    torch.ops.lckernels_cuda.overlap_scatter(
        contiguous_rows(sequence), table, plan.segments, plan.tile_segments, mode, out
    )
    return out
