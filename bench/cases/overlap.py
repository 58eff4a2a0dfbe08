"""The shapes of overlap_merge and overlap_split that are timed, and the bytes that each must move."""

from dataclasses import dataclass
from functools import cached_property

import torch

from bench.harness.roofline import Traffic
from bench.harness.rows import dtype_name
from lckernels import Plan, plan_chunks
from lckernels.segments import Column


@dataclass(frozen=True)
class OverlapCase:
    """One document cut into full chunks of `chunk_len` that share `overlap` tokens with their neighbours."""

    total_len: int
    overlap: int
    dim: int
    dtype: torch.dtype
    chunk_len: int = 512
    weights: str = "triangular"

    @classmethod
    def of_size(cls, sequence_bytes: int, overlap: int, dim: int, dtype: torch.dtype) -> "OverlapCase":
        """About `sequence_bytes` of merged sequence, its length such that the last chunk needs no shift."""
        stride = cls.chunk_len - overlap
        steps = round((sequence_bytes / (dim * dtype.itemsize) - overlap) / stride)
        return cls(overlap + max(1, steps) * stride, overlap, dim, dtype)

    @cached_property
    def plan(self) -> Plan:
        return plan_chunks(self.total_len, self.chunk_len, self.overlap)

    @property
    def label(self) -> str:
        return f"n{self.total_len}-overlap{self.overlap}-d{self.dim}-{dtype_name(self.dtype)}"

    @property
    def stride(self) -> int:
        return self.chunk_len - self.overlap

    @property
    def num_chunks(self) -> int:
        return self.plan.num_chunks

    def shape(self, op: str) -> dict[str, int | str]:
        sizes = {name: getattr(self, name) for name in ("total_len", "chunk_len", "overlap", "dim")}
        return sizes | ({"weights": self.weights} if op == "overlap_merge" else {})

    def traffic(self, op: str, direction: str) -> Traffic:
        """Covered chunk rows and sequence rows count once; written chunks count whole."""
        row = self.dim * self.dtype.itemsize
        sequence = self.total_len * row
        written_chunks = self.num_chunks * self.chunk_len * row
        read_chunks = covered_rows(self.plan, self.weights if op == "overlap_merge" else "uniform") * row
        gathers = (op == "overlap_merge") == (direction == "forward")
        return Traffic(read_chunks, sequence) if gathers else Traffic(sequence, written_chunks)


def covered_rows(plan: Plan, weights: str) -> int:
    """Chunk rows that contribute to the output: whole segments; for "crop" the keep ranges."""
    table = plan.segments.long()
    if weights == "crop":
        return int((table[:, Column.KEEP_END] - table[:, Column.KEEP_START]).sum())
    return int(table[:, Column.LENGTH].sum())


MIB = 2**20
_FP32, _BF16, _FP16, _FP64 = torch.float32, torch.bfloat16, torch.float16, torch.float64

# Sequences above the size from which malloc maps fresh pages (32 MiB), far above the L2 cache.
OVERLAP_QUICK = [
    *(
        OverlapCase.of_size(36 * MIB, 256, dim, dtype)
        for dim in (384, 768, 1024, 4096)
        for dtype in (_FP32, _BF16)
    ),
    OverlapCase.of_size(36 * MIB, 128, 768, _FP32),
    OverlapCase.of_size(36 * MIB, 256, 768, _FP16),
    OverlapCase.of_size(36 * MIB, 256, 768, _FP64),
    OverlapCase.of_size(384 * MIB, 256, 1024, _FP32),
]
SPLIT_QUICK = [case for case in OVERLAP_QUICK if case.dim == 768 and case.dtype == _FP32]
OVERLAP_FULL = [
    *(
        OverlapCase.of_size(96 * MIB, overlap, dim, dtype)
        for dim in (384, 768, 1024, 4096)
        for overlap in (256, 128)
        for dtype in (_FP32, _BF16, _FP16, _FP64)
    ),
    *(OverlapCase.of_size(512 * MIB, 256, 1024, dtype) for dtype in (_FP32, _BF16)),
]
