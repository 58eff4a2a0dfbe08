"""Hidden states of chunks on their way to one sequence."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from lckernels.functional import overlap_merge
from lckernels.plan import Plan


class ChunkStates:
    """One hidden state of all chunks, collected in the order of the plan's rows."""

    def __init__(self, plan: Plan, like: Tensor, device: torch.device | str) -> None:
        self.plan = plan.to(device)
        self.rows = 0
        self.parts: list[Tensor] = []
        self.buffer = None
        # With a gradient the parts are joined by autograd; without one they are written in place, once.
        if not like.requires_grad:
            shape = (plan.num_chunks, plan.chunk_len, like.shape[2])
            self.buffer = torch.empty(shape, dtype=like.dtype, device=device)

    def add(self, state: Tensor) -> None:
        """state (rows, width, dim), width <= chunk_len; columns behind width are never read."""
        rows, width, _ = state.shape
        if self.buffer is not None:
            self.buffer[self.rows : self.rows + rows, :width] = state
        else:
            padding = (0, 0, 0, self.plan.chunk_len - width)
            self.parts.append(nn.functional.pad(state.to(self.plan.device), padding))
        self.rows += rows

    def merge(self, weights: str | Tensor) -> Tensor:
        """(total_len, dim) in the states' dtype; the chunks are let go."""
        chunks = torch.cat(self.parts) if self.buffer is None else self.buffer
        self.parts, self.buffer = [], None
        if isinstance(weights, Tensor):
            weights = weights.to(chunks.device)
        # The result keeps the dtype that the model gave its states, under autocast too.
        device = chunks.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            return overlap_merge(chunks, self.plan, weights)
