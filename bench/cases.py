"""The shapes that are timed, and what each costs: FLOPs over visible pairs, bytes that must move."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

from lckernels import Plan, plan_chunks
from lckernels.plan import Column

BACKWARD_FLOPS = 2.5  # of the forward: five matrix products against two


class Traffic(NamedTuple):
    """Bytes an op must at least read and write."""

    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


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
        """Each covered chunk row and each sequence row once; chunks are written whole, fill included."""
        row = self.dim * self.dtype.itemsize
        sequence = self.total_len * row
        written_chunks = self.num_chunks * self.chunk_len * row
        read_chunks = covered_rows(self.plan, self.weights if op == "overlap_merge" else "uniform") * row
        gathers = (op == "overlap_merge") == (direction == "forward")
        return Traffic(read_chunks, sequence) if gathers else Traffic(sequence, written_chunks)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def covered_rows(plan: Plan, weights: str) -> int:
    """Chunk rows that land in the output: all of every segment, for "crop" what the keep ranges hold."""
    table = plan.segments.long()
    if weights == "crop":
        return int((table[:, Column.KEEP_END] - table[:, Column.KEEP_START]).sum())
    return int(table[:, Column.LENGTH].sum())


@dataclass(frozen=True)
class AttentionCase:
    """Self-attention with `window_size = (left, right)` in keys, -1 unbounded."""

    seqlen: int
    window_size: tuple[int, int]
    dtype: torch.dtype
    batch: int = 1
    num_heads: int = 8
    num_kv_heads: int = 8
    head_dim: int = 64

    @property
    def label(self) -> str:
        return f"n{self.seqlen}-w{self.window_size[0]}-{dtype_name(self.dtype)}"

    def shape(self) -> dict[str, int | str]:
        return {
            "batch": self.batch,
            "seqlen": self.seqlen,
            "heads": f"{self.num_heads}:{self.num_kv_heads}",
            "head_dim": self.head_dim,
            "window": "{},{}".format(*self.window_size),
        }

    @property
    def score_bytes(self) -> int:
        """Of all scores in fp32, were they materialised."""
        return 4 * self.batch * self.num_heads * self.seqlen**2

    def flops(self, direction: str) -> float:
        pairs = visible_pairs(self.seqlen, self.seqlen, self.window_size)
        forward = 4 * self.batch * self.num_heads * self.head_dim * pairs
        return {"forward": 1, "backward": BACKWARD_FLOPS}[direction] * forward


def visible_pairs(
    seqlen_q: int, seqlen_k: int, window_size: tuple[int, int], *, sink_tokens: int = 0, chunk: int = 0
) -> int:
    """Number of (query, key) pairs by the rule of `windowed_attention`, queries at the end of the keys."""
    left, right = window_size
    p = torch.arange(seqlen_q) + (seqlen_k - seqlen_q)
    first_key, last_key = torch.zeros_like(p), torch.full_like(p, seqlen_k - 1)
    if chunk:
        block = torch.div(p, chunk, rounding_mode="floor") * chunk
        first_key, last_key = block.clamp(min=0), (block + chunk - 1).clamp(max=seqlen_k - 1)
    if right >= 0:
        last_key = torch.minimum(last_key, p + right)
    first = torch.maximum(first_key, p - left) if left >= 0 else first_key
    in_window = (last_key - first + 1).clamp(min=0)
    last_sink = torch.minimum(last_key, first - 1).clamp(max=sink_tokens - 1)
    in_sink = (last_sink - first_key + 1).clamp(min=0)
    return int((in_window + in_sink).sum())


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

ATTENTION_QUICK = [AttentionCase(n, (511, 0), dtype) for dtype in (_FP32, _BF16) for n in (1024, 2048, 4096)]
ATTENTION_FULL = [
    AttentionCase(n, (511, 0), dtype) for dtype in (_FP32, _BF16) for n in (1024, 2048, 4096, 8192, 16384)
]
