"""Scores from q.k and the dropout mask, in Triton."""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
FAR = tl.constexpr(1 << 30)  # beyond every distance between a query and a key


class ScoreArgs(NamedTuple):
    """A score's numbers and its tensors, fp32 and contiguous, or None."""

    scale: float
    unit: float  # > 0: the factor that makes a value of `scores` an exponent of two
    flips: int | None  # 1 if the factor is -unit: raw products and a negative scale
    softcap: float | None
    rel_bias: Tensor | None  # (num_heads, bias_len)
    bias_len: int
    bias_center: int
    sink_logits: Tensor | None  # (num_heads,)
    seed: Tensor | None  # (1,) int64, with dropout only
    threshold: int  # draws below it are dropped
    keep_scale: float


@triton.jit
def tanh(x):
    """Accurate to fp32's rounding; near 0 by a series, where the quotient of exponentials cancels."""
    size = tl.abs(x)
    e = tl.exp2(size * (-2.0 * LOG2_E))
    far = (1.0 - e) / (1.0 + e)
    square = x * x
    near = size * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0))))
    value = tl.where(size < 0.1, near, far)
    return tl.where(x < 0, -value, value)


@triton.jit
def scores(qk, p, j, head, score):
    """Scores divided by score.unit, and the softcap's tanh (qk itself without softcap).

    p, j and head broadcast to qk's shape: positions of queries and keys (p int64), heads.
    """
    if score.softcap is None and score.rel_bias is None:
        return qk, qk
    s = qk * score.scale
    capped = s
    if score.softcap is not None:
        capped = tanh(s / score.softcap)
        s = capped * score.softcap
    if score.rel_bias is not None:
        s += tl.load(score.rel_bias + head * score.bias_len + bias_column(p, j, score))
    return s, capped


@triton.jit
def exponents(s, lse, score):
    """Exponents of two: `scores` times log2(e), minus lse, which already has that factor."""
    return s * (score.unit if score.flips is None else -score.unit) - lse


@triton.jit
def bias_column(p, j, score):
    """Column of rel_bias for a query at p and key j."""
    base = tl.minimum(tl.maximum(score.bias_center - p, -FAR), FAR).to(tl.int32)
    return tl.minimum(tl.maximum(j + base, 0), score.bias_len - 1)


@triton.jit
def dropout_keep(score, p, j_start, head, seq, KEYS_FIRST: tl.constexpr, BLOCK_N: tl.constexpr):
    """Which probabilities are kept: (queries, BLOCK_N) bool, or (BLOCK_N, queries) with KEYS_FIRST.

    Args:
        score: the options of the scores, with the dropout seed and threshold.
        p: (queries, 1), or (1, queries) with KEYS_FIRST: positions of the queries.
        j_start: first key, a multiple of 4.
        head: index of the query head.
        seq: index of the sequence.
        KEYS_FIRST: whether rows are keys.
        BLOCK_N: number of keys.
    """
    groups = (j_start // 4 + tl.arange(0, BLOCK_N // 4)).to(tl.uint32)
    groups = groups[:, None] if KEYS_FIRST else groups[None, :]
    zeros = (groups + p * 0).to(tl.uint32) * 0
    seed = tl.load(score.seed)
    draws = tl.philox(
        seed, groups + zeros, p.to(tl.uint32) + zeros, head.to(tl.uint32) + zeros, seq.to(tl.uint32) + zeros
    )
    lanes = tl.join(tl.join(draws[0], draws[2]), tl.join(draws[1], draws[3]))
    if KEYS_FIRST:
        lanes = tl.permute(lanes, (0, 2, 3, 1)).reshape(BLOCK_N, p.shape[1])
    else:
        lanes = lanes.reshape(p.shape[0], BLOCK_N)
    return lanes >= tl.full([], score.threshold, tl.uint32)
