"""The states of a sequence's first tokens, which every chunk reads: their mean over the chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.functional import overlap_merge
from lckernels.long.chunking import Chunks
from lckernels.plan import Plan

SUMMARIES = ("mean", "first")


@dataclass(frozen=True, eq=False)
class ChunkSummaries:
    """The leading states of each chunk of a batch, before their mean.

    Attributes:
        chunks: of the batch.
        states: (num_chunks, width, dim), at most as wide as they were recorded; a chunk has those of its
            document's `chunks.num_leading`.
    """

    chunks: Chunks
    states: Tensor


_RECORD: ContextVar[tuple[list[ChunkSummaries], int | None] | None] = ContextVar(
    "chunk summaries", default=None
)


@contextmanager
def recorded_summaries(width: int | None = None) -> Iterator[list[ChunkSummaries]]:
    """What was merged within: one for each merged state of a call, if its summary is the mean.

    Args:
        width: the most first states of a chunk that are recorded. Default: all that are merged here.
    """
    record: list[ChunkSummaries] = []
    token = _RECORD.set((record, width))
    try:
        yield record
    finally:
        _RECORD.reset(token)


class LeadingStates:
    """Merges the leading states of all chunks; a chunk has the weight of the tokens it keeps.

    Args:
        chunks: the chunks of the batch.
        device: where the states are merged.
    """

    def __init__(self, chunks: Chunks, device: torch.device | str) -> None:
        leads = chunks.num_leading  # of each document
        ends = leads.cumsum(0)
        length, start = leads[chunks.documents], (ends - leads)[chunks.documents]
        row = torch.arange(chunks.num_chunks, device="cpu")
        segments = torch.stack([row, torch.zeros_like(row), start, length], dim=1)
        self.chunks, self.width = chunks, int(leads.max())
        self.plan = Plan.from_segments(
            segments,
            num_chunks=chunks.num_chunks,
            chunk_len=self.width,
            total_len=int(ends[-1]),
            cu_seqlens=torch.cat([ends.new_zeros(1), ends]),
        ).to(device)
        # That of a single chunk is 1, by which a division is exact.
        single = torch.bincount(chunks.documents, minlength=chunks.num_documents) == 1
        weights = torch.where(single[chunks.documents], 1, chunks.kept.clamp(min=1)).float()
        self.weights = weights[:, None].expand(-1, self.width).contiguous().to(device)
        shift = chunks.cu_seqlens[:-1] - (ends - leads)
        positions = torch.arange(int(ends[-1]), device="cpu") + shift.repeat_interleave(leads)
        self.positions = positions.to(device)

    def replace(self, merged: Tensor, states: Tensor) -> Tensor:
        """`merged (total_len, dim)` with the mean in the rows of leading tokens.

        Args:
            merged: the merged states, which may be overwritten.
            states: (num_chunks, chunk_len, dim), those of the chunks.
        """
        recorded = _RECORD.get()
        if recorded is not None:
            record, width = recorded
            record.append(ChunkSummaries(self.chunks, states[:, : self.width][:, :width].clone()))
        leading = overlap_merge(states[:, : self.width], self.plan, self.weights)
        copy = merged.index_copy if merged.requires_grad else merged.index_copy_
        return copy(0, self.positions, leading)
