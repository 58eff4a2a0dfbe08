"""Options of an attention as arguments of the Triton kernels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lckernels.arguments import check_inputs, check_layout, check_score
from lckernels.backends.triton import tuned
from lckernels.backends.triton.kernels.score import ScoreArgs
from lckernels.backends.triton.kernels.window import Tables
from lckernels.backends.triton.launch import Rows, blocks
from lckernels.backends.triton.tiles import (
    Chip,
    Tiles,
    block_dim,
    chip_of,
    choose_tiles,
    dot_precision,
)
from lckernels.options import AttentionOptions, Layout, Score
from lckernels.philox import dropout_threshold

_LEAST_UNIT = 1e-37  # of scores: with 0, masked scores of -inf would become NaN


@dataclass(frozen=True)
class Arguments:
    """The arguments of every attention kernel besides its tensors, and the sizes that its launch needs.

    Attributes:
        common: tables, score, the rule's numbers, sizes, in the kernels' order.
        num_seqs: sequences: rows of the batch, or segments of packed input.
        group: query heads per kv head.
        window: keys that a query sees at most.
        packed: with cu_seqlens.
        bias_len: columns of rel_bias; 1 without.
        heavy: with options that need many registers.
        whole_tiles: every row may see a tile of keys whole, which masks by key exclude.
        chip: the GPU's properties.
        dtype: of q, k and v.
        sizes: constants of the problem: GROUP, head dims and their padded sizes, PRECISION.
    """

    common: tuple
    num_seqs: int
    group: int
    window: int
    packed: bool
    bias_len: int
    heavy: bool
    whole_tiles: bool
    chip: Chip
    dtype: torch.dtype
    sizes: dict[str, Any]

    def tiles(self, kernel: str, num_rows: int) -> Tiles:
        """Tiles of a pass over sequences of num_rows rows."""
        head_dim = max(self.sizes["HEAD_DIM"], self.sizes["HEAD_DIM_V"])
        problem = (kernel, head_dim, self.dtype, self.window, num_rows, self.heavy)
        return choose_tiles(self.chip, *problem, tuned=tuned.tiles(self.chip))

    def count_tiles(self, num_rows: int, block: int) -> int:
        """The number of tiles in num_rows rows; for packed rows an upper bound: cu_seqlens is not read."""
        if self.packed:
            return num_rows // block + self.num_seqs if self.num_seqs else 0
        return -(-num_rows // block)

    def blocks(self, tiles: Tiles, num_rows: int, *tensors: Rows) -> list[TensorDescriptor | None]:
        """A tensor descriptor per tensor, of tiles of num_rows rows; None where the pass uses addresses."""
        if not (tiles.descriptors and self.whole_tiles):
            return [None for _ in tensors]
        return [blocks(x, num_rows, block_dim(x.ptr.shape[3])) for x in tensors]

    def fresh(self, like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """A new output; zeros for packed input, since a row may belong to no sequence."""
        make = like.new_zeros if self.packed else like.new_empty
        return make(shape, dtype=dtype or like.dtype)

    def fresh_lse(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """A new lse; -inf for packed input, since a row may belong to no sequence."""
        if self.packed:
            return like.new_full(shape, -math.inf, dtype=torch.float32)
        return like.new_empty(shape, dtype=torch.float32)

    def meta(self, tiles: Tiles) -> dict[str, Any]:
        """The kernels' compile-time constants and the compiler's options."""
        return self.sizes | {
            "BLOCK_M": tiles.block_m,
            "BLOCK_N": tiles.block_n,
            "num_warps": tiles.num_warps,
            "num_stages": tiles.num_stages,
        }


def attention_arguments(options: AttentionOptions, q: Tensor, k: Tensor, v: Tensor) -> Arguments:
    """The kernels' arguments: contiguous tables, score tensors in fp32. Raises for sizes that do not fit."""
    # Again for callers of torch.ops: the kernels take each size from one tensor.
    check_inputs(q, k, v)
    check_layout(options.layout, q, k)
    check_score(options.score, q)
    batch, seqlen_q, num_heads, head_dim = q.shape
    seqlen_k, num_kv_heads, head_dim_v = v.shape[1:]
    layout, score = options.layout, options.score
    packed = layout.cu_seqlens_q is not None
    num_seqs = layout.cu_seqlens_q.shape[0] - 1 if packed else batch
    left, right = (None if side < 0 else side for side in options.window_size)
    chunk = layout.chunk or None
    offset, offsets = _number_or_tensor(layout.offset)
    origin, origins = _number_or_tensor(layout.chunk_origin, 0)
    rule = (left, right, layout.sink_tokens or None, chunk, origin, offset)
    spans = (math.inf if left is None or right is None else left + right + 1, chunk or math.inf, seqlen_k)
    group, chip = num_heads // num_kv_heads, chip_of(q.device)
    return Arguments(
        common=(
            _tables(layout, offsets, origins, num_seqs),
            _score_arguments(score, options),
            *rule,
            seqlen_q,
            seqlen_k,
            num_seqs,
            num_heads,
        ),
        num_seqs=num_seqs,
        group=group,
        window=int(min(spans)),
        packed=packed,
        bias_len=1 if score.rel_bias is None else score.rel_bias.shape[1],
        heavy=_is_heavy(options),
        whole_tiles=layout.kv_mask is None and layout.segment_ids is None,
        chip=chip,
        dtype=q.dtype,
        sizes={
            "GROUP": group,
            "HEAD_DIM": head_dim,
            "HEAD_DIM_V": head_dim_v,
            "BLOCK_D": block_dim(head_dim),
            "BLOCK_DV": block_dim(head_dim_v),
            "PRECISION": dot_precision(chip, max(head_dim, head_dim_v)),
        },
    )


def _number_or_tensor(x: int | Tensor | None, absent: int | None = None) -> tuple[int | None, Tensor | None]:
    """x as a number and a tensor, one of which is given: `absent` is the number where x is a tensor."""
    return (absent, x) if isinstance(x, Tensor) else (x, None)


def _is_heavy(options: AttentionOptions) -> bool:
    layout, score = options.layout, options.score
    tensors = (score.rel_bias, options.seed, layout.kv_mask, layout.segment_ids)
    return bool(score.softcap) or any(x is not None for x in tensors)


def _flat(x: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
    """An optional table, contiguous and of that dtype."""
    return None if x is None else x.to(dtype or x.dtype).contiguous()


def _tables(layout: Layout, offsets: Tensor | None, origins: Tensor | None, num_seqs: int) -> Tables:
    def per_sequence(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.expand(num_seqs).contiguous()

    ids = _flat(layout.segment_ids)
    return Tables(
        offset=per_sequence(offsets),
        kv_start=per_sequence(layout.kv_start),
        kv_end=per_sequence(layout.kv_end),
        kv_mask=_flat(layout.kv_mask),
        cu_seqlens_q=_flat(layout.cu_seqlens_q),
        cu_seqlens_k=_flat(layout.cu_seqlens_k),
        segment_ids=ids,
        segment_start=_first_of_id(ids) if ids is not None and layout.sink_tokens else None,
        chunk_origin=per_sequence(origins),
    )


def _first_of_id(ids: Tensor) -> Tensor:
    """The first key with the id of each key: (batch, seqlen_k) int64, without a synchronization."""
    ordered, order = ids.sort(dim=1, stable=True)
    place = torch.arange(ids.shape[1], device=ids.device)
    opens = torch.ones_like(ids, dtype=torch.bool)
    opens[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    run = torch.where(opens, place, 0).cummax(1).values
    return torch.empty_like(order).scatter_(1, order, order.gather(1, run))


def _score_arguments(score: Score, options: AttentionOptions) -> ScoreArgs:
    scale = float(options.softmax_scale)
    raw = not score.softcap and score.rel_bias is None
    return ScoreArgs(
        scale=scale,
        unit=max(abs(scale) if raw else 1.0, _LEAST_UNIT) * math.log2(math.e),
        flips=1 if raw and scale < 0 else None,
        softcap=float(score.softcap) or None,
        rel_bias=_flat(score.rel_bias, torch.float32),
        bias_len=1 if score.rel_bias is None else score.rel_bias.shape[1],
        bias_center=score.bias_center,
        sink_logits=_flat(score.sink_logits, torch.float32),
        seed=options.seed,
        threshold=dropout_threshold(options.dropout_p),
        keep_scale=1 / (1 - options.dropout_p),
    )
