"""overlap_merge and overlap_split in C++."""

import torch
from torch import Tensor

from lckernels.backends.shared.compiled_arguments import mode_and_table
from lckernels.backends.shared.tensor_rows import contiguous_rows
from lckernels.checks import weights_error
from lckernels.plan import PlanArgs


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    mode, table = mode_and_table(weights)
    out = chunks.new_empty(plan.total_len, chunks.shape[2])
    bad = torch.ops.lckernels_cpu.overlap_gather(
        contiguous_rows(chunks), table, plan.segments, plan.tile_segments, mode, out
    )
    if bad >= 0 and table is not None:
        raise weights_error(bad)
    return out


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    mode, table = mode_and_table(weights)
    dout = contiguous_rows(dout)
    dchunks = _scatter(dout, table, plan, mode)
    if chunks is None:
        return dchunks, None
    dweights = torch.zeros_like(table)
    torch.ops.lckernels_cpu.overlap_weight_grad(
        dout, contiguous_rows(chunks), table, plan.segments, plan.tile_segments, dweights
    )
    return dchunks, dweights


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return _scatter(contiguous_rows(sequence), None, plan, "add")


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    out = dchunks.new_empty(plan.total_len, dchunks.shape[2])
    torch.ops.lckernels_cpu.overlap_gather(
        contiguous_rows(dchunks), None, plan.segments, plan.tile_segments, "add", out
    )
    return out


def _scatter(sequence: Tensor, table: Tensor | None, plan: PlanArgs, mode: str) -> Tensor:
    out = sequence.new_empty(plan.num_chunks, plan.chunk_len, sequence.shape[1])
    torch.ops.lckernels_cpu.overlap_scatter(sequence, table, plan.segments, plan.tile_segments, mode, out)
    return out
