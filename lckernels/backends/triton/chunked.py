"""chunked_attention in Triton: the launches of its kernels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.backends.shared.chunk_tables import segments_by_chunk
from lckernels.backends.triton.arguments import Arguments, attention_arguments
from lckernels.backends.triton.kernels.chunked import (
    Chunks,
    Sizes,
    Tokens,
    chunked_backward_kv_kernel,
    chunked_backward_q_kernel,
    chunked_forward_kernel,
)
from lckernels.backends.triton.launch import launch, rows
from lckernels.backends.triton.merge_weights import chunk_merge_weights, plan_tensors, weights_gradient
from lckernels.backends.triton.tiles import rows_of_tile
from lckernels.options import AttentionOptions, ExtraTokens, Layout, Score
from lckernels.plan import PlanArgs

_KERNELS = {
    "chunked_forward": chunked_forward_kernel,
    "chunked_backward_q": chunked_backward_q_kernel,
    "chunked_backward_kv": chunked_backward_kv_kernel,
}


@dataclass(frozen=True)
class _Problem:
    """The arguments of every launch."""

    q: Tensor
    tokens: Tokens
    extra: Tokens | None
    chunks: Chunks
    sizes: Sizes
    arguments: Arguments

    def run(self, name: str, results: tuple, num_heads: int, extra: bool) -> None:
        """Launches a pass over the tiles of positions, or with extra over those of the extra tokens."""
        tiles = self.arguments.tiles(name, self.sizes.chunk_len)
        block = rows_of_tile(name, tiles)
        num_tiles = -(-self.sizes.total_len // block)
        if extra:
            num_tiles = self.sizes.num_chunks * -(-self.sizes.num_extra // block)
        common = (self.chunks, self.sizes, *self.arguments.common[:2], num_tiles)
        launch(
            _KERNELS[name],
            num_heads * num_tiles,
            self.q,
            self.tokens,
            self.extra,
            *results,
            *common,
            EXTRA=extra,
            **self.arguments.meta(tiles),
        )


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
) -> tuple[Tensor, Tensor | None]:
    """out, and extra_out where there are extra tokens."""
    problem = _problem(q, k, v, extra, weights, plan, softmax_scale, None, None)
    out = q.new_empty(*q.shape[:2], v.shape[2])
    problem.run("chunked_forward", (rows(out[None]), None, None), q.shape[1], False)
    if extra is None:
        return out, None
    extra_out = q.new_empty(*extra.q.shape[:3], v.shape[2])
    problem.run("chunked_forward", (rows(extra_out), None, None), q.shape[1], True)
    return out, extra_out


def chunked_attention_backward(
    dout: Tensor,
    dextra_out: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, ExtraTokens | None, Tensor | None]:
    """dq, dk, dv, dextra, dweights; the last two None where there are none."""
    problem = _problem(q, k, v, extra, weights, plan, softmax_scale, dout, dextra_out)
    num_heads, num_kv_heads = q.shape[1], k.shape[1]
    num_rows = plan.chunk_len + (0 if extra is None else extra.q.shape[1])
    lse, dots = (
        torch.empty(plan.num_chunks, num_heads, num_rows, dtype=torch.float32, device=q.device)
        for _ in range(2)
    )
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    dextra = None if extra is None else ExtraTokens(*(x.new_zeros(x.shape) for x in extra.tensors()))
    uses_extra = dextra_out is not None
    for is_extra in (False, True)[: 1 + uses_extra]:
        problem.run("chunked_forward", (None, lse, dots), num_heads, is_extra)
    problem.run("chunked_backward_q", (rows(dq[None]), lse, dots), num_heads, False)
    key_grads = (rows(dk[None]), rows(dv[None]))
    problem.run("chunked_backward_kv", (*key_grads, lse, dots), num_kv_heads, False)
    if dextra is not None:
        if uses_extra:
            problem.run("chunked_backward_q", (rows(dextra.q), lse, dots), num_heads, True)
        key_grads = (rows(dextra.k), rows(dextra.v))
        problem.run("chunked_backward_kv", (*key_grads, lse, dots), num_kv_heads, True)
    dweights = None
    if isinstance(weights, Tensor):
        row_dots = dots[:, :, : plan.chunk_len].sum(1)
        dweights = weights_gradient(weights, row_dots, plan)
    return dq, dk, dv, dextra, dweights


def _problem(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra: ExtraTokens | None,
    weights: str | Tensor,
    plan: PlanArgs,
    softmax_scale: float,
    dout: Tensor | None,
    dextra_out: Tensor | None,
) -> _Problem:
    num_extra = 0 if extra is None else extra.q.shape[1]
    options = AttentionOptions((-1, -1), softmax_scale, Layout(), Score(), 0.0, None)
    arguments = attention_arguments(options, q[None], k[None], v[None])
    sizes = Sizes(
        plan.segments.shape[0], plan.num_chunks, plan.chunk_len, plan.total_len, num_extra, q.shape[1]
    )
    return _Problem(
        q,
        _tokens((q[None], k[None], v[None]), None if dout is None else dout[None]),
        _tokens(extra.tensors(), dextra_out) if num_extra else None,
        _chunks(plan, chunk_merge_weights(weights, plan, torch.float32)),
        sizes,
        arguments,
    )


def _tokens(tensors: tuple[Tensor, ...], dout: Tensor | None) -> Tokens:
    return Tokens(*(rows(x) for x in tensors), None if dout is None else rows(dout))


def _chunks(plan: PlanArgs, merge_weights: Tensor) -> Chunks:
    return Chunks(*plan_tensors(plan), *segments_by_chunk(plan), merge_weights)
