"""merge="final": the model runs on every chunk; the chunks' hidden states are merged into one sequence."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lckernels.functional import overlap_merge
from lckernels.long.batches import Entries
from lckernels.long.chunking import Chunks
from lckernels.long.outputs import Outputs
from lckernels.long.recompute import Recompute
from lckernels.long.summary import LeadingStates
from lckernels.plan import Plan


def run_chunks(
    model: Callable[..., Any],
    entries: Entries,
    chunks: Chunks,
    outputs: Outputs,
    weights: str | Tensor,
    device: torch.device | str,
    ranges: list[tuple[int, int]],
    advance: Callable[[int], object],
    attention: Callable[[], AbstractContextManager[None]],
    *,
    summary: str,
    recompute: Recompute | None,
) -> list[Tensor]:
    """The states (total_len, dim), merged on `device`, in the order of `Outputs.states`.

    The model runs on each of the ranges of chunks, in a context of `attention`; `advance` receives the number
    of tokens read. With `recompute` the backward runs it again.
    """
    gathered: list[ChunkStates] = []

    def run(index: Tensor, widths: list[int]) -> list[Tensor]:
        inputs = entries.gather(index, widths)
        output = model(**inputs, output_hidden_states=outputs.hidden_states, return_dict=True)
        return outputs.states(output, tuple(index.shape))

    read = run if recompute is None else recompute.of(run)
    with attention():
        for start, stop in ranges:
            index = chunks.index[start:stop, : chunks.widths[start]].to(entries.device)
            widths = chunks.widths[start:stop]
            states = read(index, widths)
            gathered = gathered or [ChunkStates(chunks.plan, state, device) for state in states]
            for rows, state in zip(gathered, states, strict=True):
                rows.add(state)
            advance(sum(widths))
    # Without overlap every weight is the same, and uniform ones divide by exactly 1.
    if isinstance(weights, str) and chunks.num_chunks == chunks.num_documents:
        weights = "uniform"
        summary = "first"
    leading = LeadingStates(chunks, device) if summary == "mean" and chunks.num_leading.any() else None
    return [rows.merge(weights, leading) for rows in gathered]


class ChunkStates:
    """One hidden state of all chunks, written once, in the order of the plan's rows.

    Args:
        plan: the chunks' plan.
        like: a state of some chunks; the others have its dtype and dim.
        device: where the chunks are merged.
    """

    def __init__(self, plan: Plan, like: Tensor, device: torch.device | str) -> None:
        self.plan = plan.to(device)
        self.rows = 0
        shape = (plan.num_chunks, plan.chunk_len, like.shape[2])
        self.buffer: Tensor | None = torch.empty(shape, dtype=like.dtype, device=device)

    def add(self, state: Tensor) -> None:
        """Appends state (rows, width, dim), width <= chunk_len; columns from width on are never read."""
        if state.requires_grad and torch.is_grad_enabled():
            self.buffer = _write_rows(self.buffer, state, self.rows)
        else:
            _part(self.buffer, state.shape, self.rows).copy_(state)
        self.rows += len(state)

    def merge(self, weights: str | Tensor, leading: LeadingStates | None) -> Tensor:
        """(total_len, dim) in the states' dtype; frees the chunks.

        Args:
            weights: as in LongEncoder.
            leading: what merges the first tokens; None: they are those of the first chunk.
        """
        chunks, self.buffer = self.buffer, None
        if isinstance(weights, Tensor):
            weights = weights.to(chunks.device)
        merged = overlap_merge(chunks, self.plan, weights)
        return merged if leading is None else leading.replace(merged, chunks)


class _WriteRows(torch.autograd.Function):
    """Writes the states of some chunks into the buffer of all; their gradient is a view of the buffer's.

    torch's own gradient of a slice that is written copies the gradient of the whole buffer each time.
    """

    @staticmethod
    def forward(buffer: Tensor, state: Tensor, start: int) -> Tensor:
        _part(buffer, state.shape, start).copy_(state)
        return buffer

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        buffer, state, ctx.start = inputs
        ctx.shape, ctx.device = state.shape, state.device
        ctx.mark_dirty(buffer)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        # The rows of `state` in the buffer before have no effect, and their gradient is read by no one.
        return grad, _part(grad, ctx.shape, ctx.start).to(ctx.device), None


@torch.compiler.disable  # a compiled graph loses the gradient of what is written
def _write_rows(buffer: Tensor, state: Tensor, start: int) -> Tensor:
    """`buffer` with the states in its rows from `start` on."""
    return _WriteRows.apply(buffer, state, start)


def _part(buffer: Tensor, shape: torch.Size, start: int) -> Tensor:
    """The view of `buffer (num_chunks, chunk_len, dim)` for states of this shape from row `start` on."""
    return buffer[start : start + shape[0], : shape[1]]
