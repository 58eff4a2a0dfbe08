"""Pegasus-X's encoder: attention within blocks of `block_size` tokens, and global tokens with own states.

A token sees its block and the global tokens; these see every token and each other. Every second layer moves
its blocks by half a block: it pads its input, so that the blocks begin with its first row there too.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from lckernels.functional import merge_attention_states, windowed_attention
from lckernels.hf.family import Family, own_method
from lckernels.hf.interface import NAME, returns_weights
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.kinds import FULL
from lckernels.hf.masks.padding import padding_layout
from lckernels.hf.settings import settings_of
from lckernels.options import Layout


def _attention(
    module: nn.Module,
    token_hidden_states: Tensor,
    global_hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, None]:
    """The layer's forward; its mask is (batch, seqlen), 0 where a key is valid."""
    if attention_mask is None or returns_weights(options):
        own = own_method(module, "forward", _attention)
        return own(module, token_hidden_states, global_hidden_states, attention_mask, **options)
    tokens, others = (_projected(module, x) for x in (token_hidden_states, global_hidden_states))
    padding = padding_layout(attention_mask == 0)
    attend = partial(
        windowed_attention, softmax_scale=module.scaling, dropout_p=_dropout(module), return_lse=True,
        backend=settings_of(module).backend,
    )  # fmt: skip
    parts = attend(others[0], *tokens[1:], layout=padding), attend(others[0], *others[1:])
    of_global, _ = merge_attention_states(*zip(*parts, strict=True), backend=settings_of(module).backend)
    q, k, v = (x.transpose(1, 2) for x in tokens)
    batch, _, seqlen, _ = q.shape
    blocks = replace(padding, offset=0, chunk=module.block_size)
    attention = AttentionInterface()[module.config._attn_implementation]
    of_tokens, _ = attention(
        module, q, k, v, KeyMask.create((batch, 1, seqlen, seqlen), q.device, FULL, blocks),
        dropout=_dropout(module), scaling=module.scaling,
        other_keys=partial(attend, tokens[0], *others[1:], layout=Layout()),
    )  # fmt: skip
    return module.out_proj(of_tokens.flatten(2)), module.out_proj(of_global.flatten(2)), None


def _projected(module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """q, k and v, each (batch, seqlen, num_heads, head_dim)."""
    layers = (module.q_proj, module.k_proj, module.v_proj)
    return tuple(layer(x).unflatten(-1, (module.num_heads, -1)) for layer in layers)


def _dropout(module: nn.Module) -> float:
    return module.dropout if module.training else 0.0


def _replacements(module: nn.Module) -> dict[str, Any]:
    if type(module).__name__ != "PegasusXGlobalLocalAttention":
        return {}
    # The layer has no config, by which transformers selects an attention.
    return {"forward": _attention, "config": PreTrainedConfig(attn_implementation=NAME)}


def _mixes_tokens(model: nn.Module) -> str:
    return "its global tokens see every token" if any(map(_replacements, model.modules())) else ""


FAMILY = Family(name="pegasus_x", replacements=_replacements, mixes_tokens=_mixes_tokens)
