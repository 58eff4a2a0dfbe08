"""A decode step on transformers alone, with the keys that a patched model sees, and caches for it."""

import copy
import inspect
import sys
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases.generation import Patch

States = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (1, num_kv_heads, tokens, head_dim)


def cache_argument(model: nn.Module) -> str:
    """The forward's name for a cache: transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@torch.inference_mode()
def states_of(model: nn.Module, ids: Tensor, length: int) -> States:
    """`length` keys and values: those of the ids, repeated where they are fewer.

    Repeated keys have the sizes of real ones; a prompt of 32,768 tokens would take minutes.
    """
    cache = _empty_cache()
    model(input_ids=ids[:, :length], use_cache=True, **{cache_argument(model): cache}, logits_to_keep=1)
    times = -(-length // ids.shape[1])
    return [
        tuple(x.repeat(1, 1, times, 1)[:, :, :length].contiguous() for x in (layer.keys, layer.values))
        for layer in cache.layers
    ]


def cache_of(states: States) -> Any:
    """A DynamicCache of these keys and values, without copies of them."""
    cache = _empty_cache()
    for i, (key, value) in enumerate(states):
        cache.update(key[:, :, :0], value[:, :, :0], i)
        cache.layers[i].keys, cache.layers[i].values = key, value
    return cache


def shared_copy(cache: Any) -> Any:
    """A cache with the same tensors in layers of its own."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    return copied


@torch.inference_mode()
def plain_step(model: nn.Module, states: States, token: Tensor, patch: Patch) -> Tensor:
    """Logits of the token (1, 1) after the states: of the model on a cache that has the visible keys alone.

    With positions of the cache, the keys of the sink tokens are rotated from the sequence's places to those
    that have the cache's distances.
    """
    cached, dtype = states[0][0].shape[2], model.dtype
    evicted = cached + 1 - patch.num_visible(cached)
    visible = []
    for key, value in states:
        if evicted:
            sinks = patch.sink_tokens or 0
            first = key[:, :, :sinks].to(dtype)
            if patch.positions == "cache" and sinks:
                first = _rotated(model, first, evicted)
            key = torch.cat([first, key[:, :, sinks + evicted :].to(dtype)], dim=2)
            value = torch.cat([value[:, :, :sinks], value[:, :, sinks + evicted :]], dim=2)
        visible.append((key.to(dtype), value.to(dtype)))
    cache = {cache_argument(model): cache_of(visible)}
    return model(input_ids=token, position_ids=torch.tensor([[cached]]), use_cache=True, **cache).logits


def _rotated(model: nn.Module, key: Tensor, distance: int) -> Tensor:
    places = torch.full((1, key.shape[2]), distance)
    cos, sin = model.base_model.rotary_emb(key, position_ids=places)
    return sys.modules[type(model).__module__].apply_rotary_pos_emb(key, key, cos, sin)[0]


def _empty_cache() -> Any:
    import transformers

    return transformers.DynamicCache()
