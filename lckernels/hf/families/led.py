"""LED: Longformer's attention in the encoder; the decoder's has code of its own, which is that of BART."""

from typing import Any

from torch import Tensor, nn
from transformers import EncoderDecoderCache

from lckernels.hf.families.longformer import checked_forward, self_attention
from lckernels.hf.family import Family
from lckernels.hf.own_attention import attention_of, dropout_of, with_config


def _decoder_attention(
    module: nn.Module,
    hidden_states: Tensor,
    key_value_states: Tensor | None = None,
    cache: Any = None,
    attention_mask: Tensor | None = None,
    output_attentions: bool = False,
    past_key_values: Any = None,
) -> tuple[Tensor, Tensor | None, Any]:
    """The layer's forward through transformers' interface; past_key_values is the cache before 5.24."""
    cache = past_key_values if cache is None else cache
    is_cross = key_value_states is not None
    q = _heads(module, module.q_proj(hidden_states))
    k, v = _keys_and_values(module, key_value_states if is_cross else hidden_states, cache, is_cross)
    attention = attention_of(module)
    out, weights = attention(
        module, q, k, v, attention_mask, dropout=dropout_of(module),
        scaling=module.scaling, is_causal=not is_cross, output_attentions=output_attentions,
    )  # fmt: skip
    return module.out_proj(out.flatten(2)), weights, cache


def _keys_and_values(module: nn.Module, x: Tensor, cache: Any, is_cross: bool) -> tuple[Tensor, Tensor]:
    """Those of the states x and of the cache; of cross attention its first call stores them there."""
    layer, has_both = module.layer_idx, isinstance(cache, EncoderDecoderCache)
    own = cache
    if has_both:
        own = cache.cross_attention_cache if is_cross else cache.self_attention_cache
        if is_cross and cache.is_updated.get(layer):
            return own.layers[layer].keys, own.layers[layer].values
    k, v = _heads(module, module.k_proj(x)), _heads(module, module.v_proj(x))
    if own is not None:
        k, v = own.update(k, v, layer)
    if is_cross and has_both:
        cache.is_updated[layer] = True
    return k, v


def _heads(module: nn.Module, x: Tensor) -> Tensor:
    """(batch, heads, seqlen, head_dim) of (batch, seqlen, dim)."""
    return x.unflatten(-1, (module.num_heads, module.head_dim)).transpose(1, 2)


def _replacements(module: nn.Module) -> dict[str, Any]:
    name = type(module).__name__
    if name == "LEDEncoderSelfAttention":
        return {"forward": self_attention}
    if name == "LEDEncoder":
        return {"forward": checked_forward}
    if name == "LEDDecoderAttention":
        return with_config(_decoder_attention)
    return {}


FAMILY = Family(name="led", replacements=_replacements, own_attention=True)
