"""Loops with a KV cache, in calls of any sizes, and the windowed forward that they must equal."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from lckernels.hf.cache.layer import RollingLayer

_NAMES = ("cache", "past_key_values")  # from transformers 5.24 on, and before


def logits_of(model: nn.Module, ids: Tensor, cache: Cache | None, **more: Any) -> Tensor:
    """The logits of one call with a cache."""
    return model(ids, use_cache=True, **{cache_argument(model): cache}, **more).logits


def cache_argument(model: nn.Module) -> str:
    """The name of a model's argument for a cache, also if torch.compile has wrapped the model."""
    forward = getattr(model, "_orig_mod", model).forward
    return next(x for x in _NAMES if x in inspect.signature(forward).parameters)


def cache_of(result: Any) -> Cache | None:
    """The cache in a model's output."""
    return next((result[name] for name in _NAMES if result.get(name) is not None), None)


def rolling_layers(cache: Cache) -> list[RollingLayer]:
    """The layers of a cache, or of its part for self attention, that keep a window."""
    own = getattr(cache, "self_attention_cache", cache)
    return [layer for layer in own.layers if isinstance(layer, RollingLayer)]


def by_steps(
    model: nn.Module, ids: Tensor, sizes: list[int], mask: Tensor | None = None, cache: Cache | None = None
) -> tuple[Tensor, Cache]:
    """Logits and the cache of calls of these sizes, the last of which ends with the last id."""
    at, out = ids.shape[1] - sum(sizes), []
    name = cache_argument(model)
    for size in sizes:
        more = {} if mask is None else of_mask(mask, at, at + size)
        result = model(ids[:, at : at + size], use_cache=True, **{name: cache}, **more)
        cache, at = cache_of(result), at + size
        out.append(result.logits)
    return torch.cat(out, dim=1), cache


def of_mask(mask: Tensor, begin: int, end: int) -> dict[str, Tensor]:
    """The arguments of a call for these tokens of padded rows."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return {"attention_mask": mask[:, :end], "position_ids": positions[:, begin:end]}


def windowed(model: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits of the whole sequences in one call without a cache."""
    more = {} if mask is None else of_mask(mask, 0, ids.shape[1])
    return model(ids, use_cache=False, **more).logits


def tokens(rows: int = 2, length: int = 48) -> Tensor:
    """Ids of a vocabulary of 50, without special ones."""
    return torch.randint(3, 50, (rows, length), generator=torch.Generator().manual_seed(1))


def generate(
    model: nn.Module, inputs: dict[str, Tensor], **options: Any
) -> tuple[Tensor, Tensor, Cache | None]:
    """Sequences, logits of each step, and the cache, of 24 tokens."""
    torch.manual_seed(0)
    settings = {"do_sample": False, "max_new_tokens": 24, "min_new_tokens": 24, "output_logits": True}
    with torch.no_grad():
        result = model.generate(**inputs, return_dict_in_generate=True, **{**settings, **options})
    return result.sequences, torch.stack(result.logits), cache_of(result)
