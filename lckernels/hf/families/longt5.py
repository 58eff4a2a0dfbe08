"""LongT5: the local attention of its encoder, a window of `local_radius` keys on either side with a bias."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from lckernels.hf.family import Family, own_method
from lckernels.hf.interface import NAME
from lckernels.hf.masks.create import mask_of_keys
from lckernels.hf.position_bias import by_distance


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
    if mask is None or output_attentions:
        own = own_method(module, "forward", _local_attention)
        return own(module, hidden_states, mask, position_bias, output_attentions)
    batch, seqlen, _ = hidden_states.shape
    block_len, reach = module.block_len, module.local_radius
    if position_bias is None and module.has_relative_attention_bias:
        # The distances of a block's first query, from -block_len on.
        values = module.compute_bias(block_len)[0, 0, :, 0, 1 : 2 * block_len]
        position_bias = by_distance(values)
    # A query sees its own key where that is valid.
    valid = mask[:, 0].diagonal(block_len, -2, -1).reshape(batch, -1)[:, :seqlen]
    q, k, v = (
        x(hidden_states).view(batch, seqlen, module.n_heads, -1).transpose(1, 2)
        for x in (module.q, module.k, module.v)
    )
    attention = AttentionInterface()[module.config._attn_implementation]
    out, _ = attention(
        module, q, k, v, mask_of_keys(valid, seqlen, (reach, reach)),
        dropout=module.dropout if module.training else 0.0, scaling=1.0, position_bias=position_bias,
    )  # fmt: skip
    return module.o(out.reshape(batch, seqlen, -1)), position_bias


def _replacements(module: nn.Module) -> dict[str, Any]:
    if type(module).__name__ != "LongT5LocalAttention":
        return {}
    return {"forward": _local_attention, "config": PreTrainedConfig(attn_implementation=NAME)}


FAMILY = Family(name="longt5", replacements=_replacements)
