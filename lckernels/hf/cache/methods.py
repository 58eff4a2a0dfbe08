"""Methods of a patched model that create or take a KV cache: with them its layers roll."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache as cached
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from lckernels.checks import bad
from lckernels.hf.cache.convert import Layers, can_roll, kept_by, new_cache, own_part, record, roll
from lckernels.hf.cache.layer import Kept
from lckernels.hf.cache.learned import learned_positions_of, num_tokens, tokens_of
from lckernels.hf.cache.static_windows import StaticWindows
from lckernels.hf.family import learned_positions
from lckernels.hf.masks.kept import first_tokens
from lckernels.hf.private import CACHE_PLACES, PREPARE_CACHE, SHARES_KEYS
from lckernels.hf.settings import LayerSettings
from lckernels.hf.virtual_tokens import keeps_padding

_CACHES = ("cache", "past_key_values")  # names of the argument: from transformers 5.24 on, and before


def cache_methods(
    model: nn.Module, settings: Mapping[nn.Module, LayerSettings], positions: str
) -> dict[nn.Module, dict[str, Callable]]:
    """Functions (module, ...) that replace methods of a patched model, by module and name.

    Args:
        model: the model.
        settings: of its attention layers.
        positions: as in `patch`.
    """
    found: dict[nn.Module, dict[str, Callable]] = {}
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) or _cache_argument(type(module)) is None:
            continue
        layers, widths = _layers(module, settings), _widths(module, settings)
        inner = any(_layers(child, settings) or _widths(child, settings) for child in _models_in(module))
        if (layers or widths) and not inner:
            known = _parameters(type(module)), learned_positions(module), positions
            found[module] = {"forward": CacheForward(layers, widths, *known)}
        if layers and hasattr(type(module), PREPARE_CACHE):
            found.setdefault(module, {})[PREPARE_CACHE] = RollingGeneration(layers, widths, positions)
    return found


def _models_in(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The models in a model that take a cache."""
    for module in model.modules():
        if module is not model and isinstance(module, PreTrainedModel) and _cache_argument(type(module)):
            yield module


def _layers(model: nn.Module, settings: Mapping[nn.Module, LayerSettings]) -> dict[int, LayerSettings]:
    """The attention layers in a model that a window changes, by their number in its cache."""
    return {number: own for number, own in _numbered(model, settings) if _may_roll(own)}


def _widths(model: nn.Module, settings: Mapping[nn.Module, LayerSettings]) -> dict[int, int]:
    """The keys that layers with a window or chunks of their own see, by their number in the cache."""
    known = ((number, own.kind) for number, own in _numbered(model, settings) if own.kind is not None)
    causal = ((number, kind) for number, kind in known if kind.window[1] == 0 and not kind.cross)
    return {n: kind.chunk or kind.window[0] + 1 for n, kind in causal if kind.chunk or kind.window[0] >= 0}


def _numbered(
    model: nn.Module, settings: Mapping[nn.Module, LayerSettings]
) -> Iterator[tuple[int, LayerSettings]]:
    """The attention layers in a model that have keys of their own, with their number in its cache."""
    for module in model.modules():
        if module in settings and not getattr(module, SHARES_KEYS, False):
            number = next((getattr(module, x) for x in CACHE_PLACES if hasattr(module, x)), None)
            if isinstance(number, int):
                yield number, settings[module]


def _may_roll(settings: LayerSettings) -> bool:
    """Whether a layer rolls, or may once its first call has shown its kind."""
    return can_roll(settings) if settings.kind is not None else settings.window is not None


@cached
def _parameters(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls.forward).parameters)[1:]


def _cache_argument(cls: type) -> str | None:
    """The name of the forward's argument for a cache; None without one."""
    return next((name for name in _CACHES if name in _parameters(cls)), None)


class CacheForward:
    """The forward of the innermost model that takes a cache.

    Attributes:
        layers: the settings of its layers that have a window of a patch, by their number in the cache.
        widths: keys that its layers with a window of their own see.
        parameters: names of the forward's parameters.
        table: the model's learned positions, as in Family; None without them.
        positions: as in `patch`.
    """

    def __init__(
        self,
        layers: Layers,
        widths: dict[int, int],
        parameters: tuple[str, ...],
        table: tuple[int, bool] | None,
        positions: str,
    ) -> None:
        self.layers, self.widths, self.parameters = layers, widths, parameters
        self.table, self.positions = table, positions

    def __call__(self, view: nn.Module, *args: Any, **options: Any) -> Any:
        """The model's forward; `view` is the module's view."""
        forward = super(type(view), view).forward
        named = dict(zip(self.parameters, args, strict=False))
        given = {**named, **options}
        if len(args) + len(options) > len(given) or tokens_of(given) is None:
            return forward(*args, **options)  # raises the model's own error
        own = _CACHES[0] if _CACHES[0] in self.parameters else _CACHES[1]
        name = next((x for x in _CACHES if given.get(x) is not None), own)
        cache, kept = given.get(name), None
        if torch.compiler.is_compiling():
            kept = _rolling_now(cache, self.layers) if self.layers else None
        elif self.layers:
            if cache is None and _creates_cache(view, given):
                cache = given[name] = new_cache(view.config, _is_encoder_decoder(view, given))
            rolls = isinstance(cache, Cache) and not keeps_padding(self.layers, given.get("attention_mask"))
            kept = roll(cache, self.layers, self.widths, self.positions) if rolls else None
            self._set_positions(given, int(cache.get_seq_length()) if isinstance(cache, Cache) else 0)
        if kept is not None:
            mask = given.get("attention_mask")
            total = int(cache.get_seq_length()) + num_tokens(given)
            _check_call(kept, mask, total)
            kept.first = None if mask is None else first_tokens(mask[:, :total])
        static = StaticWindows(cache, self.widths) if self.widths and isinstance(cache, Cache) else None
        if static:
            static.check(num_tokens(given))
        if kept is None:
            result = forward(**given)
        else:
            kept.running = True
            try:
                result = forward(**given)
            finally:
                kept.running = False
        if static:
            static.store()
        return result

    def _set_positions(self, given: dict[str, Any], past: int) -> None:
        """Checks learned positions of a call, or limits them to places in the cache."""
        kept = None
        if self.table is not None:
            kept = kept_by(self.layers, self.positions, max(self.widths.values(), default=0))
        if kept is not None:
            limit = kept.length if self.positions == "cache" else None
            positions = learned_positions_of(given, past, *self.table, limit)
            if positions is not None:
                given["position_ids"] = positions
            if positions is not None and given.get("attention_mask") is None:
                # Without a mask transformers takes equal positions for the borders of packed sequences.
                rows, tokens = tokens_of(given).shape[:2]
                given["attention_mask"] = positions.new_ones(rows, past + tokens)


class RollingGeneration:
    """The method by which `generate` prepares a cache.

    Attributes:
        layers: as in CacheForward.
        widths: as in CacheForward.
        positions: as in `patch`.
    """

    def __init__(self, layers: Layers, widths: dict[int, int], positions: str) -> None:
        self.layers, self.widths, self.positions = layers, widths, positions

    def __call__(
        self, view: nn.Module, generation_config: Any, model_kwargs: dict, *args: Any, **more: Any
    ) -> Any:
        """The model's method; `view` is the module's view."""
        prepare = getattr(super(type(view), view), PREPARE_CACHE)
        result = prepare(generation_config, model_kwargs, *args, **more)
        cache = next((model_kwargs[name] for name in _CACHES if model_kwargs.get(name) is not None), None)
        if isinstance(cache, Cache) and keeps_padding(self.layers, model_kwargs.get("attention_mask")):
            return result
        if isinstance(cache, Cache) and roll(cache, self.layers, self.widths, self.positions):
            # The recording of an earlier assisted decoding ends here.
            record(cache, bool(generation_config.is_assistant))
        return result


def _rolling_now(cache: Any, layers: Layers) -> Kept | None:
    """What a rolling cache keeps; while torch.compile traces, another one stays what it is."""
    own = own_part(cache) if isinstance(cache, Cache) else None
    found = own.layers[min(layers)] if own is not None and min(layers) < len(own.layers) else None
    return getattr(found, "kept", None)


def _creates_cache(model: nn.Module, given: dict[str, Any]) -> bool:
    """Whether a forward without a cache would create one."""
    use_cache, mask = given.get("use_cache"), given.get("attention_mask")
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        return False  # such a mask, which the caller made, runs with a cache that keeps every key
    wanted = getattr(model.config, "use_cache", False) if use_cache is None else use_cache
    return bool(wanted) and not (model.training and getattr(model, "gradient_checkpointing", False))


def _is_encoder_decoder(model: nn.Module, given: dict[str, Any]) -> bool:
    return model.config.is_encoder_decoder or given.get("encoder_hidden_states") is not None


def _check_call(kept: Kept, mask: Any, total: int) -> None:
    """Raises ValueError for a wrong call, after which a rolling cache would have had `total` tokens."""
    if kept.max_length is not None and total > kept.max_length:
        raise bad(
            "cache", f"a static cache of {kept.max_length} tokens for {total}",
            "expected a StaticCache with a larger max_cache_len",
        )  # fmt: skip
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        got = f"a mask of {mask.ndim} dimensions" if isinstance(mask, Tensor) else type(mask).__name__
        raise bad("attention_mask", got, "a KV cache with a window requires a 2-D mask, (batch, seqlen)")
    if mask.shape[1] < total:
        got = f"a mask of {mask.shape[1]} tokens"
        raise bad(
            "attention_mask", got, f"expected {total}: those of the cache, evicted ones too, and the new ones"
        )
