"""Which columns of which chunk land where in the output: the value that the overlap and chunked ops take."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lckernels import segments as plan_segments
from lckernels.checks import integer
from lckernels.pytree import register_pytree


class PlanArgs(NamedTuple):
    """The part of a Plan that a backend reads.

    Attributes:
        segments: (num_segments, 10) int32.
        tile_segments: (num_tiles, 2) int32.
        num_chunks: rows of the chunks tensor.
        chunk_len: columns of the chunks tensor.
        total_len: positions of the output.
    """

    segments: Tensor
    tile_segments: Tensor
    num_chunks: int
    chunk_len: int
    total_len: int


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How the rows of `chunks (num_chunks, chunk_len, dim)` land on one output axis of `total_len` positions.

    Made by `plan_chunks` or `Plan.from_segments`, which validate it once; the ops do not check it again.

    Attributes:
        segments: (num_segments, 10) int32, sorted by (start, row), columns named by `segments.Column`:
            columns [col, col + length) of row `row` land on positions [start, start + length). The keep range
            is relative to the segment. [fill_start, fill_end) are the columns of the row that this segment
            owns when whole rows are written; a row that lands nowhere has one segment of length 0.
        tile_segments: (ceil(total_len / 64), 2) int32: the half-open range of segments that may touch output
            tile i, positions [64 i, 64 (i + 1)).
        cu_seqlens: (num_documents + 1,) int32: where each document begins in the output.
        num_chunks: rows of the chunks tensor.
        chunk_len: columns of the chunks tensor.
        total_len: positions of the output.
        crop_gap: the first position that no keep range covers, or two do; -1 if they partition the output.
    """

    segments: Tensor
    tile_segments: Tensor
    cu_seqlens: Tensor
    num_chunks: int
    chunk_len: int
    total_len: int
    crop_gap: int

    @property
    def num_segments(self) -> int:
        """Rows of `segments`."""
        return self.segments.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of the plan's tensors."""
        return self.segments.device

    @property
    def args(self) -> PlanArgs:
        """The part that a backend reads."""
        return PlanArgs(self.segments, self.tile_segments, self.num_chunks, self.chunk_len, self.total_len)

    def to(self, device: torch.device | str) -> "Plan":
        """This plan with its tensors on `device`; the same object if they are there."""
        if torch.empty(0, device=device).device == self.device:
            return self
        return dataclasses.replace(
            self,
            segments=self.segments.to(device),
            tile_segments=self.tile_segments.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
        )

    def __repr__(self) -> str:
        sizes = f"num_chunks={self.num_chunks}, chunk_len={self.chunk_len}, total_len={self.total_len}"
        num_documents = self.cu_seqlens.shape[0] - 1
        return f"Plan({sizes}, {num_documents=}, num_segments={self.num_segments}, device={self.device})"

    @classmethod
    @torch.inference_mode(False)
    def from_segments(
        cls,
        segments: Tensor | Sequence[Sequence[int]],
        *,
        num_chunks: int,
        chunk_len: int,
        total_len: int,
        cu_seqlens: Tensor | Sequence[int] | None = None,
    ) -> "Plan":
        """A plan from explicit segments, in any order.

        Args:
            segments: (num_segments, 4), (num_segments, 6) or (num_segments, 8) integers: the first columns of
                `segments.Column`. With 4 columns each segment keeps all its positions. With 4 or 6 a segment
                starts (ends) a document where its first (last) position is the document's. A segment of
                length 0 is dropped.
            num_chunks: rows of the chunks tensor.
            chunk_len: columns of the chunks tensor.
            total_len: positions of the output.
            cu_seqlens: (num_documents + 1,) integers, offsets of the documents; default: one document.

        Returns:
            A plan with its tensors on the CPU.

        Raises:
            ValueError: a row, column, position or keep range is outside, two segments of one row share a
                column, a segment crosses a document's end, or no segment covers a position.
        """
        sizes = (
            integer("num_chunks", num_chunks, 0),
            integer("chunk_len", chunk_len, 0),
            integer("total_len", total_len, 0),
        )
        tables = plan_segments.tables(segments, *sizes, cu_seqlens)
        return cls(*tables[:3], *sizes, tables.crop_gap)


register_pytree(Plan)
