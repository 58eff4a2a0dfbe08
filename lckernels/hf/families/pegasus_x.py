"""Pegasus-X's encoder: attention within blocks of `block_size` tokens, and global tokens with own states.

A token sees its block and the global tokens; these see every token and each other. Every second layer moves
its blocks by half a block: it pads its input, so that the blocks begin with its first row there too.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from lckernels.functional import merge_attention_states, windowed_attention
from lckernels.hf.family import Family, own_method
from lckernels.hf.interface import returns_weights
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.kinds import FULL
from lckernels.hf.masks.padding import padding_layout
from lckernels.hf.own_attention import attention_of, dropout_of, projected, with_config
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
    states = token_hidden_states, global_hidden_states
    tokens, others = (projected(module, x, module.num_heads, "q_proj", "k_proj", "v_proj") for x in states)
    padding = padding_layout(attention_mask == 0)
    attend = partial(
        windowed_attention, softmax_scale=module.scaling, dropout_p=dropout_of(module), return_lse=True,
        backend=settings_of(module).backend,
    )  # fmt: skip
    parts = attend(others[0], *tokens[1:], layout=padding), attend(others[0], *others[1:])
    of_global, _ = merge_attention_states(*zip(*parts, strict=True), backend=settings_of(module).backend)
    q, k, v = (x.transpose(1, 2) for x in tokens)
    batch, _, seqlen, _ = q.shape
    blocks = replace(padding, offset=0, chunk=module.block_size)
    attention = attention_of(module)
    of_tokens, _ = attention(
        module, q, k, v, KeyMask.create((batch, 1, seqlen, seqlen), q.device, FULL, blocks),
        dropout=dropout_of(module), scaling=module.scaling,
        other_keys=partial(attend, tokens[0], *others[1:], layout=Layout()),
    )  # fmt: skip
    return module.out_proj(of_tokens.flatten(2)), module.out_proj(of_global.flatten(2)), None


def _replacements(module: nn.Module) -> dict[str, Any]:
    if type(module).__name__ != "PegasusXGlobalLocalAttention":
        return {}
    return with_config(_attention)


def _mixes_tokens(model: nn.Module) -> str:
    return "its global tokens see every token" if any(map(_replacements, model.modules())) else ""


FAMILY = Family(name="pegasus_x", replacements=_replacements, mixes_tokens=_mixes_tokens)
