"""LongT5's encoder: a window of `local_radius` keys on either side with a bias, alone or with sums of blocks.

In transient-global attention a token also sees a normed sum of each block of `global_block_size` tokens, with
a bias by the distance from its own block. Tokens of one block see the same sums with the same bias: for
windowed_attention they are heads of one query, which share keys.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lckernels.functional import windowed_attention
from lckernels.hf.families.t5 import has_last_bucket
from lckernels.hf.family import Family, own_method
from lckernels.hf.masks.create import mask_of_keys
from lckernels.hf.own_attention import attention_of, dropout_of, projected, with_config
from lckernels.hf.position_bias import by_distance, table
from lckernels.hf.settings import settings_of
from lckernels.hf.warn import warn_once
from lckernels.options import Layout, Score

_OWN = "transient-global attention runs as the model's own where it is traced or has padding before a token"


def _local_attention(
    module: nn.Module,
    hidden_states: Tensor,
    mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, ...]:
    """The layer's forward; its mask is (batch, 1, blocks, block_len, 3 * block_len).

    Rows of padding differ: the model's see no key, and their result is the mean of three blocks of values.
    """
    is_dense = position_bias is not None and not _is_by_distance(position_bias)
    if mask is None or output_attentions or is_dense:
        own = own_method(module, "forward", _local_attention)
        return own(module, hidden_states, mask, position_bias, output_attentions)
    if position_bias is None and module.has_relative_attention_bias:
        position_bias = by_distance(_local_values(module))
    # A query sees its own key where that is valid.
    valid = mask[:, 0].diagonal(module.block_len, -2, -1).flatten(1)[:, : hidden_states.shape[1]]
    return _attend(module, hidden_states, valid, position_bias), position_bias


def _transient_global_attention(
    module: nn.Module,
    hidden_states: Tensor,
    mask: Tensor | None = None,
    position_bias: Tensor | None = None,
    output_attentions: bool = False,
) -> tuple[Tensor, ...]:
    """The layer's forward; its mask is (batch, seqlen), 0 for padding."""
    if output_attentions or not _is_served(module, mask, position_bias):
        own = own_method(module, "forward", _transient_global_attention)
        return own(module, hidden_states, mask, position_bias, output_attentions)
    if position_bias is None:
        # The bias of the window, then that of the sums.
        position_bias = by_distance(torch.cat([_local_values(module), _values_of_sums(module)], 1))
    valid = mask != 0
    sums = _sums_of_blocks(hidden_states, valid, module.global_block_size)
    states = module.global_input_layer_norm(sums)
    return _attend(module, hidden_states, valid, position_bias, states), position_bias


def _is_served(module: nn.Module, mask: Tensor | None, position_bias: Tensor | None) -> bool:
    """Whether lckernels runs a call: as in the first layer, where rows must be padded on the right."""
    if position_bias is not None:
        return _is_by_distance(position_bias)
    size, buckets = module.global_block_size, module.relative_attention_num_buckets
    # The model counts blocks in floats, exactly for powers of 2.
    exact = size & (size - 1) == 0 and module.block_len > 1 and module.has_relative_attention_bias
    if (
        mask is None
        or not exact
        or not has_last_bucket(buckets, module.relative_attention_max_distance, True)
    ):
        return False
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or type(mask) is not Tensor
    valid = mask != 0
    if traced or not bool((valid[:, :-1] | ~valid[:, 1:]).all()):
        warn_once(_OWN)
        return False
    return True


def _is_by_distance(position_bias: Tensor) -> bool:
    """Whether a bias is that of a replaced layer; the model's own has one row per query of a block."""
    return position_bias.shape[3] == 1


def _attend(
    module: nn.Module, x: Tensor, valid: Tensor, position_bias: Tensor | None, sums: Tensor | None = None
) -> Tensor:
    """The layer's output: a window over the valid keys, and the sums of blocks if there are some."""
    batch, seqlen, _ = x.shape
    reach = module.local_radius
    q, k, v = (y.transpose(1, 2) for y in projected(module, x, module.n_heads, "q", "k", "v"))
    more: dict[str, Any] = {}
    if sums is not None:
        values, position_bias = position_bias[..., 2 * reach + 1 :], position_bias[..., : 2 * reach + 1]
        if sums.shape[1]:
            more["other_keys"] = partial(_attend_to_sums, module, q.transpose(1, 2), sums, valid, values)
    attention = attention_of(module)
    out, _ = attention(
        module, q, k, v, mask_of_keys(valid, seqlen, (reach, reach)), dropout=dropout_of(module),
        scaling=1.0, position_bias=position_bias, **more,
    )  # fmt: skip
    return module.o(out.reshape(batch, seqlen, -1))


def _attend_to_sums(
    module: nn.Module, q: Tensor, sums: Tensor, valid: Tensor, position_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention of q (batch, seqlen, heads, head_dim) to the sums of whole blocks, and its lse."""
    seqlen, heads, size = q.shape[1], q.shape[2], module.global_block_size
    k, v = projected(module, sums, module.n_heads, "k", "v")
    blocks = F.pad(q, (0, 0, 0, 0, 0, -seqlen % size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(2, 3)
    values, center = table(position_bias)
    attend = partial(
        windowed_attention, softmax_scale=1.0, dropout_p=dropout_of(module), return_lse=True,
        score=Score(rel_bias=values.repeat_interleave(size, 0), bias_center=center),
        backend=settings_of(module).backend,
    )  # fmt: skip
    whole = valid.sum(1) // size
    out, lse = attend(blocks, k, v, layout=Layout(offset=0, kv_end=whole))
    # The last tokens, which fill no block, belong to the block before them.
    last = whole.clamp(max=blocks.shape[1] - 1)
    rest = blocks.take_along_dim(last[:, None, None, None], 1)
    rest_out, rest_lse = attend(rest, k, v, layout=Layout(offset=whole - 1, kv_end=whole))
    is_rest = torch.arange(blocks.shape[1], device=q.device) == whole[:, None]
    out = torch.where(is_rest[:, :, None, None], rest_out, out)
    lse = torch.where(is_rest[:, None], rest_lse, lse)
    out = out.unflatten(2, (heads, size)).transpose(2, 3).flatten(1, 2)[:, :seqlen]
    return out, lse.unflatten(1, (heads, size)).transpose(2, 3).flatten(2)[:, :, :seqlen]


def _sums_of_blocks(x: Tensor, valid: Tensor, size: int) -> Tensor:
    """The sum of each whole block's tokens, (batch, seqlen // size, dim); the last has those after it too."""
    wide = torch.promote_types(x.dtype, torch.float32)
    padded = F.pad(x.masked_fill(~valid[..., None], 0), (0, 0, 0, -x.shape[1] % size))
    sums = padded.unflatten(1, (-1, size)).sum(2, dtype=wide)
    blocks = torch.arange(sums.shape[1], device=x.device)
    whole = (valid.sum(1) // size)[:, None]
    rest = (sums * (blocks == whole)[..., None]).sum(1, keepdim=True)
    sums = sums + rest * (blocks == whole - 1)[..., None]
    return sums[:, : x.shape[1] // size].to(x.dtype)


def _local_values(module: nn.Module) -> Tensor:
    """The bias of distances up to local_radius, from the model's for a block's first query."""
    return module.compute_bias(module.block_len)[0, 0, :, 0, 1 : 2 * module.block_len]


def _values_of_sums(module: nn.Module) -> Tensor:
    """The bias of distances in blocks; beyond the largest it is constant."""
    far = module.relative_attention_max_distance
    weight = module.global_relative_attention_bias.weight
    buckets = module._relative_position_bucket(
        torch.arange(-far, far + 1, device=weight.device),
        bidirectional=not module.is_decoder,
        num_buckets=module.relative_attention_num_buckets,
        max_distance=far,
    )
    return module.global_relative_attention_bias(buckets).T


_FORWARDS = {
    "LongT5LocalAttention": _local_attention,
    "LongT5TransientGlobalAttention": _transient_global_attention,
}


def _replacements(module: nn.Module) -> dict[str, Any]:
    forward = _FORWARDS.get(type(module).__name__)
    return with_config(forward) if forward else {}


def _mixes_tokens(model: nn.Module) -> str:
    sums = any(type(module).__name__ == "LongT5TransientGlobalAttention" for module in model.modules())
    return "its tokens see sums of all blocks" if sums else ""


FAMILY = Family(name="longt5", replacements=_replacements, mixes_tokens=_mixes_tokens)
