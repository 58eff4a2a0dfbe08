"""merge="final": the model runs on every chunk; the chunks' hidden states are merged into one sequence."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lckernels.functional import overlap_merge
from lckernels.long.batches import Entries
from lckernels.long.chunking import Chunks
from lckernels.long.outputs import Outputs
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
    recompute: bool,
) -> list[Tensor]:
    """The states (total_len, dim), merged on `device`, in the order of `Outputs.states`.

    The model runs on each of the ranges of chunks, in a context of `attention`; `advance` receives the number
    of tokens read.
    """
    gathered: list[ChunkStates] = []

    def run(inputs: dict[str, Tensor], shape: tuple[int, int]) -> list[Tensor]:
        output = model(**inputs, output_hidden_states=outputs.hidden_states, return_dict=True)
        return outputs.states(output, shape)

    def run_again(*args: Any) -> list[Tensor]:
        with attention():  # the backward runs outside of this call's context
            return run(*args)

    recomputed = recompute and torch.is_grad_enabled()
    read = partial(checkpoint, run_again, use_reentrant=False) if recomputed else run
    with attention():
        for start, stop in ranges:
            index = chunks.index[start:stop, : chunks.widths[start]].to(entries.device)
            widths = chunks.widths[start:stop]
            inputs = entries.gather(index, widths)
            states = read(inputs, tuple(index.shape))
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
    """One hidden state of all chunks, collected in the order of the plan's rows.

    Args:
        plan: the chunks' plan.
        like: a state of some chunks; the others have its dtype and dim, and require a gradient if it does.
        device: where the chunks are merged.
    """

    def __init__(self, plan: Plan, like: Tensor, device: torch.device | str) -> None:
        self.plan = plan.to(device)
        self.rows = 0
        self.parts: list[Tensor] = []
        self.buffer = None
        # With a gradient autograd concatenates the parts; without one they are written in place, once.
        if not like.requires_grad:
            shape = (plan.num_chunks, plan.chunk_len, like.shape[2])
            self.buffer = torch.empty(shape, dtype=like.dtype, device=device)

    def add(self, state: Tensor) -> None:
        """Appends state (rows, width, dim), width <= chunk_len; columns from width on are never read."""
        rows, width, _ = state.shape
        if self.buffer is not None:
            self.buffer[self.rows : self.rows + rows, :width] = state
        else:
            padding = (0, 0, 0, self.plan.chunk_len - width)
            self.parts.append(nn.functional.pad(state.to(self.plan.device), padding))
        self.rows += rows

    def merge(self, weights: str | Tensor, leading: LeadingStates | None) -> Tensor:
        """(total_len, dim) in the states' dtype; frees the chunks.

        Args:
            weights: as in LongEncoder.
            leading: what merges the first tokens; None: they are those of the first chunk.
        """
        chunks = torch.cat(self.parts) if self.buffer is None else self.buffer
        self.parts, self.buffer = [], None
        if isinstance(weights, Tensor):
            weights = weights.to(chunks.device)
        merged = overlap_merge(chunks, self.plan, weights)
        return merged if leading is None else leading.replace(merged, chunks)
