"""The ops overlap_merge and overlap_split."""

from typing import Any

import torch
from torch import Tensor

from lckernels.backends.registry import Problem, choose
from lckernels.ops.registration import first_order, register
from lckernels.plan import PlanArgs


def _overlap_problem(op: str, x: Tensor) -> Problem:
    return Problem(op, x.device.type, x.dtype, (x.shape,))


def _overlap_merge(
    chunks: Tensor,
    weights: Tensor | None,
    segments: Tensor,
    tile_segments: Tensor,
    total_len: int,
    mode: str,
    backend: str | None,
) -> Tensor:
    plan = PlanArgs(segments, tile_segments, chunks.shape[0], chunks.shape[1], total_len)
    chosen = choose(_overlap_problem("overlap_merge", chunks), backend)
    return chosen.ops["overlap_merge"](chunks, mode if weights is None else weights, plan)


def _overlap_merge_fake(
    chunks: Tensor, weights: Any, segments: Any, tiles: Any, total_len: int, *_: Any
) -> Tensor:
    return chunks.new_empty(total_len, chunks.shape[2])


def _overlap_merge_backward(
    dout: Tensor,
    chunks: Tensor | None,
    weights: Tensor | None,
    segments: Tensor,
    tile_segments: Tensor,
    num_chunks: int,
    chunk_len: int,
    mode: str,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    plan = PlanArgs(segments, tile_segments, num_chunks, chunk_len, dout.shape[0])
    chosen = choose(_overlap_problem("overlap_merge", dout), backend)
    dchunks, dweights = chosen.ops["overlap_merge_backward"](
        dout, chunks, mode if weights is None else weights, plan
    )
    return dchunks, dout.new_empty(0) if dweights is None else dweights


def _overlap_merge_backward_fake(
    dout: Tensor,
    chunks: Tensor | None,
    weights: Tensor | None,
    segments: Tensor,
    tile_segments: Tensor,
    num_chunks: int,
    chunk_len: int,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    dchunks = dout.new_empty(num_chunks, chunk_len, dout.shape[1])
    return dchunks, dout.new_empty(0) if chunks is None else weights.new_empty(weights.shape)


class _OverlapMerge(torch.autograd.Function):
    """The gradient of overlap_merge."""

    @staticmethod
    def forward(ctx: Any, chunks: Tensor, weights: Tensor | None, *rest: Any) -> Tensor:
        segments, tile_segments, _, mode, backend = rest
        with torch._C._AutoDispatchBelowAutograd():
            out = overlap_merge(chunks, weights, *rest)
        ctx.save_for_backward(chunks if ctx.needs_input_grad[1] else None, weights, segments, tile_segments)
        ctx.args = (chunks.shape[0], chunks.shape[1], mode, backend)
        return out

    @staticmethod
    @first_order("overlap_merge")
    def backward(ctx: Any, dout: Tensor) -> tuple:
        dchunks, dweights = overlap_merge_backward(dout, *ctx.saved_tensors, *ctx.args)
        return dchunks, dweights if ctx.needs_input_grad[1] else None, *(None,) * 5


overlap_merge = register(
    "overlap_merge",
    "(Tensor chunks, Tensor? weights, Tensor segments, Tensor tile_segments, SymInt total_len, str mode, "
    "str? backend) -> Tensor",
    _overlap_merge,
    _overlap_merge_fake,
    apply=_OverlapMerge.apply,
)
overlap_merge_backward = register(
    "overlap_merge_backward",
    "(Tensor dout, Tensor? chunks, Tensor? weights, Tensor segments, Tensor tile_segments, "
    "SymInt num_chunks, SymInt chunk_len, str mode, str? backend) -> (Tensor, Tensor)",
    _overlap_merge_backward,
    _overlap_merge_backward_fake,
)


def _overlap_split(
    sequence: Tensor,
    segments: Tensor,
    tile_segments: Tensor,
    num_chunks: int,
    chunk_len: int,
    backend: str | None,
) -> Tensor:
    plan = PlanArgs(segments, tile_segments, num_chunks, chunk_len, sequence.shape[0])
    chosen = choose(_overlap_problem("overlap_split", sequence), backend)
    return chosen.ops["overlap_split"](sequence, plan)


def _overlap_split_fake(
    sequence: Tensor, segments: Any, tiles: Any, num_chunks: int, chunk_len: int, *_: Any
) -> Tensor:
    return sequence.new_empty(num_chunks, chunk_len, sequence.shape[1])


def _overlap_split_backward(
    dchunks: Tensor, segments: Tensor, tile_segments: Tensor, total_len: int, backend: str | None
) -> Tensor:
    plan = PlanArgs(segments, tile_segments, dchunks.shape[0], dchunks.shape[1], total_len)
    chosen = choose(_overlap_problem("overlap_split", dchunks), backend)
    return chosen.ops["overlap_split_backward"](dchunks, plan)


def _overlap_split_backward_fake(
    dchunks: Tensor, segments: Any, tiles: Any, total_len: int, *_: Any
) -> Tensor:
    return dchunks.new_empty(total_len, dchunks.shape[2])


class _OverlapSplit(torch.autograd.Function):
    """The gradient of overlap_split."""

    @staticmethod
    def forward(ctx: Any, sequence: Tensor, *rest: Any) -> Tensor:
        segments, tile_segments, _, _, backend = rest
        with torch._C._AutoDispatchBelowAutograd():
            chunks = overlap_split(sequence, *rest)
        ctx.save_for_backward(segments, tile_segments)
        ctx.args = (sequence.shape[0], backend)
        return chunks

    @staticmethod
    @first_order("overlap_split")
    def backward(ctx: Any, dchunks: Tensor) -> tuple:
        return overlap_split_backward(dchunks, *ctx.saved_tensors, *ctx.args), *(None,) * 5


overlap_split = register(
    "overlap_split",
    "(Tensor sequence, Tensor segments, Tensor tile_segments, SymInt num_chunks, SymInt chunk_len, "
    "str? backend) -> Tensor",
    _overlap_split,
    _overlap_split_fake,
    apply=_OverlapSplit.apply,
)
overlap_split_backward = register(
    "overlap_split_backward",
    "(Tensor dchunks, Tensor segments, Tensor tile_segments, SymInt total_len, str? backend) -> Tensor",
    _overlap_split_backward,
    _overlap_split_backward_fake,
)
