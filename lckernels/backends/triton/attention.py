"""windowed_attention in Triton: the launches of its kernels."""

import torch
from torch import Tensor

from lckernels.backends.shared.sink_gradient import sink_gradient
from lckernels.backends.shared.tensor_rows import contiguous_rows
from lckernels.backends.triton.arguments import Arguments, attention_arguments
from lckernels.backends.triton.kernels.attention_backward import (
    attention_backward_kv_kernel,
    attention_backward_q_kernel,
    attention_delta_kernel,
)
from lckernels.backends.triton.kernels.attention_bias import attention_backward_bias_kernel
from lckernels.backends.triton.kernels.attention_forward import attention_forward_kernel
from lckernels.backends.triton.kernels.attention_splits import merge_splits_kernel
from lckernels.backends.triton.launch import launch, rows
from lckernels.backends.triton.tiles import block_dim, choose_splits, power_of_two
from lckernels.fields import FlatOptions, grouped_options

MAX_PACKED_ROWS = 64  # up to so many rows of a group's heads share a tile
MAX_BIAS_STRIPS = 64  # partial sums of the bias' gradient per head


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, options: FlatOptions) -> tuple[Tensor, Tensor]:
    batch, seqlen_q, num_heads, _ = q.shape
    arguments = attention_arguments(grouped_options(options), q, k, v)
    pack = arguments.group > 1 and seqlen_q * arguments.group <= MAX_PACKED_ROWS
    rows_per_token = arguments.group if pack else 1
    tiles = arguments.tiles("forward", seqlen_q * rows_per_token)
    num_tiles = arguments.count_tiles(seqlen_q * rows_per_token, tiles.block_m)
    programs = batch * (num_heads // rows_per_token) * num_tiles
    splits = choose_splits(arguments.chip, programs, arguments.window)
    shape, lse_shape = (batch, seqlen_q, num_heads, v.shape[3]), (batch, num_heads, seqlen_q)
    out, lse = arguments.fresh(q, shape), arguments.fresh_lse(q, lse_shape)
    parts, part_lses = out, lse
    if splits > 1:
        parts = arguments.fresh(q, (splits * batch, *shape[1:]), torch.float32)
        part_lses = arguments.fresh_lse(q, (splits * batch, *lse_shape[1:]))
    keys, values = rows(k), rows(v)
    launch(
        attention_forward_kernel,
        programs * splits,
        q,
        rows(q),
        keys,
        values,
        *arguments.blocks(tiles, tiles.block_n, keys, values),
        rows(parts),
        part_lses,
        *arguments.common,
        num_tiles,
        splits,
        PACK=pack,
        **arguments.meta(tiles),
    )
    if splits > 1:
        _merge_splits(parts, part_lses, out, lse, splits)
    return out, lse


def _merge_splits(parts: Tensor, part_lses: Tensor, out: Tensor, lse: Tensor, splits: int) -> None:
    num_rows, seqlen_q, num_heads = lse.numel(), out.shape[1], out.shape[2]
    launch(
        merge_splits_kernel,
        num_rows,
        out,
        parts,
        part_lses,
        out,
        lse,
        num_rows,
        seqlen_q,
        num_heads,
        splits,
        HEAD_DIM_V=out.shape[3],
        BLOCK_DV=block_dim(out.shape[3]),
        BLOCK_SPLITS=power_of_two(splits),
        num_warps=2,
    )


def windowed_attention_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    options: FlatOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv, drel_bias, dsink_logits; the last two None where the score has no such part."""
    batch, seqlen_q, num_heads, _ = q.shape
    arguments = attention_arguments(grouped_options(options), q, k, v)
    dout, lse = contiguous_rows(dout), lse.contiguous()
    delta = _delta(dout, dlse, out)
    dq, dk, dv = (arguments.fresh(x, x.shape) for x in (q, k, v))
    tiles = arguments.tiles("backward_kv", k.shape[1])
    num_tiles = arguments.count_tiles(k.shape[1], tiles.block_n)
    inputs = tuple(rows(x) for x in (q, k, v, dout))
    launch(
        attention_backward_kv_kernel,
        batch * k.shape[2] * num_tiles,
        q,
        *inputs,
        *arguments.blocks(tiles, tiles.block_m, inputs[0], inputs[3]),
        rows(dk),
        rows(dv),
        lse,
        delta,
        *arguments.common,
        num_tiles,
        **arguments.meta(tiles),
    )
    tiles = arguments.tiles("backward_q", seqlen_q)
    num_tiles = arguments.count_tiles(seqlen_q, tiles.block_m)
    launch(
        attention_backward_q_kernel,
        batch * num_heads * num_tiles,
        q,
        *inputs,
        *arguments.blocks(tiles, tiles.block_n, *inputs[1:3]),
        rows(dq),
        lse,
        delta,
        *arguments.common,
        num_tiles,
        **arguments.meta(tiles),
    )
    dbias = None
    if options.rel_bias is not None:
        dbias = _bias_gradient(inputs, lse, delta, arguments).to(options.rel_bias.dtype)
    dsink = None
    if options.sink_logits is not None:
        dsink = sink_gradient(options.sink_logits, lse, delta)
    return dq, dk, dv, dbias, dsink


def _delta(dout: Tensor, dlse: Tensor | None, out: Tensor) -> Tensor:
    """<dout, out> - dlse: (batch, num_heads, seqlen_q) fp32."""
    batch, seqlen_q, num_heads, head_dim_v = dout.shape
    delta = dout.new_empty(batch, num_heads, seqlen_q, dtype=torch.float32)
    num_rows, block_m = batch * seqlen_q * num_heads, 32
    launch(
        attention_delta_kernel,
        -(-num_rows // block_m),
        dout,
        rows(dout),
        rows(out),
        None if dlse is None else dlse.contiguous(),
        delta,
        num_rows,
        seqlen_q,
        num_heads,
        HEAD_DIM_V=head_dim_v,
        BLOCK_M=block_m,
        BLOCK_DV=block_dim(head_dim_v),
    )
    return delta


def _bias_gradient(inputs: tuple, lse: Tensor, delta: Tensor, arguments: Arguments) -> Tensor:
    """drel_bias (num_heads, L) fp32: each program sums into its own strip, then torch sums the strips."""
    q = inputs[0].ptr
    batch, seqlen_q, num_heads, _ = q.shape
    tiles = arguments.tiles("backward_bias", seqlen_q)
    num_tiles = arguments.count_tiles(seqlen_q, tiles.block_m)
    strips = min(num_tiles, MAX_BIAS_STRIPS)
    partial = torch.zeros(batch, num_heads, strips, arguments.bias_len, dtype=torch.float32, device=q.device)
    launch(
        attention_backward_bias_kernel,
        batch * num_heads * strips,
        q,
        *inputs,
        partial,
        lse,
        delta,
        *arguments.common,
        num_tiles,
        strips,
        **arguments.meta(tiles),
    )
    return partial.sum((0, 2))
