"""Problems of chunked_attention that together use every feature; one list for all backends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from helpers.backends import scaled_count
from torch import Tensor

from lckernels import ExtraTokens, Plan, plan_chunks
from lckernels.dtypes import compute_dtype


def hand_made_plan() -> Plan:
    """Two documents; chunks of several segments, with gaps, in any order; chunk 4 has no segment.

    Chunk 3 has positions 13 and 14 in two columns each.
    """
    rows = [
        [3, 1, 9, 6, 0, 5],
        [0, 0, 0, 1, 0, 1],
        [0, 2, 1, 5, 0, 3],
        [1, 4, 3, 4, 1, 3],
        [2, 0, 5, 4, 1, 4],
        [3, 8, 13, 2, 1, 2],
    ]
    return Plan.from_segments(rows, num_chunks=5, chunk_len=10, total_len=15, cu_seqlens=[0, 9, 15])


def one_chunk_of_two_texts() -> Plan:
    """Chunk 0 has the two ends of a document, chunk 1 the middle: segments of a chunk may be apart."""
    return Plan.from_segments(
        [[0, 0, 0, 9], [0, 9, 16, 9], [1, 3, 6, 13]], num_chunks=2, chunk_len=18, total_len=25
    )


def many_segments() -> Plan:
    """Chunk 0 has 70 segments (fewer in the interpreter), every second pair of positions; chunk 1 has all."""
    number = max(scaled_count(70), 16)
    pairs = [[0, 2 * i, 4 * i, 2] for i in range(number)]
    total_len = 4 * number
    return Plan.from_segments(
        [*pairs, [1, 0, 0, total_len]], num_chunks=2, chunk_len=total_len, total_len=total_len
    )


@dataclass(frozen=True)
class ChunkedCase:
    name: str
    plan: Callable[[], Plan]
    num_heads: int = 2
    num_kv_heads: int = 2
    head_dim: int = 8
    head_dim_v: int = 8
    num_extra: int | None = None
    weights: str = "triangular"  # or "explicit", or "zeros": explicit with zeros

    def tensors(self, dtype: torch.dtype, requires_grad: bool = False) -> "ChunkedInputs":
        """Fresh random inputs."""
        plan = self.plan()
        heads = (
            (self.num_heads, self.head_dim),
            (self.num_kv_heads, self.head_dim),
            (self.num_kv_heads, self.head_dim_v),
        )
        q, k, v = (torch.randn(plan.total_len, *x, dtype=torch.float64).to(dtype) for x in heads)
        extra = None
        if self.num_extra is not None:
            sizes = ((plan.num_chunks, self.num_extra, *x) for x in heads)
            extra = ExtraTokens(*(torch.randn(size, dtype=torch.float64).to(dtype) for size in sizes))
        weights = self.weights
        if weights in ("explicit", "zeros"):
            weights = explicit_weights(plan, weights == "zeros").to(compute_dtype(dtype))
        inputs = ChunkedInputs(q, k, v, extra, weights, plan)
        for x in inputs.tensors():
            x.requires_grad_(requires_grad)
        return inputs


@dataclass(frozen=True)
class ChunkedInputs:
    q: Tensor
    k: Tensor
    v: Tensor
    extra: ExtraTokens | None
    weights: str | Tensor
    plan: Plan

    def tensors(self) -> list[Tensor]:
        """The tensors that may require a gradient."""
        extra = () if self.extra is None else self.extra.tensors()
        return [
            self.q,
            self.k,
            self.v,
            *extra,
            *((self.weights,) if isinstance(self.weights, Tensor) else ()),
        ]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "ChunkedInputs":
        """The problem with `change` applied to each of `tensors()`."""
        return self.replaced([change(x) for x in self.tensors()])

    def replaced(self, tensors: Sequence[Tensor]) -> "ChunkedInputs":
        """The problem with these `tensors()`."""
        extra = None if self.extra is None else ExtraTokens(*tensors[3:6])
        weights = tensors[-1] if isinstance(self.weights, Tensor) else self.weights
        return ChunkedInputs(*tensors[:3], extra, weights, self.plan)

    def op_args(self, backend: str | None) -> tuple:
        """The arguments of torch.ops.lckernels.chunked_attention."""
        explicit = isinstance(self.weights, Tensor)
        return (
            self.q, self.k, self.v, *((None,) * 3 if self.extra is None else self.extra.tensors()),
            self.weights if explicit else None, self.plan.segments, self.plan.tile_segments,
            self.plan.num_chunks, self.plan.chunk_len, "explicit" if explicit else self.weights,
            self.q.shape[2] ** -0.5, backend,
        )  # fmt: skip


def explicit_weights(plan: Plan, zeros: bool) -> Tensor:
    """Random weights, NaN outside segments; with `zeros`, 0 at every second position of two chunks."""
    weights = torch.full((plan.num_chunks, plan.chunk_len), torch.nan, dtype=torch.float64)
    covered = set()
    for chunk, col, start, length in plan.segments[:, :4].tolist():
        weights[chunk, col : col + length] = torch.rand(length, dtype=torch.float64) + 0.5
        for t in range(start, start + length):
            if zeros and t in covered and t % 2:
                weights[chunk, col + t - start] = 0
            covered.add(t)
    return weights


def _half() -> Plan:
    return plan_chunks([40], 16, 8)


def _ragged() -> Plan:
    return plan_chunks([1, 12, 13, 14, 30, 7], 16, 5, num_leading=2, num_trailing=1)


CASES = (
    ChunkedCase("one_token", lambda: plan_chunks([1], 8, 2)),
    ChunkedCase("one_chunk", lambda: plan_chunks([7], 8, 2)),
    ChunkedCase("half", _half),
    ChunkedCase("uniform", _half, weights="uniform"),
    ChunkedCase("hann", _half, weights="hann"),
    ChunkedCase("crop", _half, weights="crop"),
    ChunkedCase("explicit", _half, weights="explicit"),
    ChunkedCase("zeros", _half, weights="zeros"),
    ChunkedCase("no_overlap", lambda: plan_chunks([50], 10, 0)),
    ChunkedCase("deep", lambda: plan_chunks([40], 20, 17)),
    ChunkedCase("over_a_tile", lambda: plan_chunks([130], 72, 20), num_heads=1, num_kv_heads=1, num_extra=1),
    ChunkedCase("ragged", _ragged),
    ChunkedCase("ragged_extra", _ragged, num_extra=3),
    ChunkedCase("by_hand", hand_made_plan),
    ChunkedCase("by_hand_crop", hand_made_plan, weights="crop"),
    ChunkedCase("two_texts", one_chunk_of_two_texts, num_extra=2),
    ChunkedCase("gqa", _half, num_heads=6, num_kv_heads=2),
    ChunkedCase("mqa", _half, num_heads=3, num_kv_heads=1),
    ChunkedCase("head_dims_differ", _half, head_dim=6, head_dim_v=10),
    ChunkedCase("odd_head_dims", _half, head_dim=1, head_dim_v=33, num_extra=1),
    ChunkedCase("no_extra_tokens", _half, num_extra=0),
    ChunkedCase("one_extra_token", _half, num_extra=1),
    ChunkedCase("two_extra_tokens", _half, num_extra=2, weights="explicit"),
    ChunkedCase(
        "everything", hand_made_plan, num_heads=4, head_dim=6, head_dim_v=10, num_extra=2, weights="zeros"
    ),
    ChunkedCase("no_heads", _half, num_heads=0, num_extra=1),
    ChunkedCase(
        "no_chunks", lambda: Plan.from_segments([], num_chunks=0, chunk_len=8, total_len=0), num_extra=1
    ),
    ChunkedCase(
        "only_extra_tokens",
        lambda: Plan.from_segments([], num_chunks=3, chunk_len=0, total_len=0),
        num_extra=2,
    ),
    ChunkedCase(
        "nothing_to_see", lambda: Plan.from_segments([], num_chunks=3, chunk_len=4, total_len=0), num_extra=0
    ),
)
LONG_CASES = (
    ChunkedCase(
        "long", lambda: plan_chunks([800], 580, 300), num_kv_heads=1, num_extra=2, weights="explicit"
    ),
    ChunkedCase("many_segments", many_segments, num_heads=1, num_kv_heads=1),
)
