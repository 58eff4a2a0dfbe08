"""From a cache of transformers to one whose layers roll: the same object, with other layers."""

from collections.abc import Iterable, Mapping, Sequence

from transformers import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    EncoderDecoderCache,
    StaticLayer,
    StaticSlidingWindowLayer,
)

from lckernels.checks import bad
from lckernels.hf.cache.layer import Kept, RollingLayer
from lckernels.hf.private import LAYERS_WITH_STATES, LAYERS_WITHOUT_KEYS, SLIDING_LAYER
from lckernels.hf.settings import LayerSettings

_FULL = (DynamicLayer, StaticLayer)
_SLIDING = (*SLIDING_LAYER, StaticSlidingWindowLayer)
Layers = Mapping[int, LayerSettings]  # by the number of the layer in the cache


def own_part(cache: Cache) -> Cache:
    """The part of a cache for self attention."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def kept_by(layers: Layers, positions: str, own_width: int = 0) -> Kept | None:
    """What the layers of a new cache keep; None where one of them requires every key.

    Args:
        layers: the settings of the layers that a window of a patch changes, by their number.
        positions: as in `patch`.
        own_width: keys that a query sees in layers with the same mask and a window of their own; 0 for none.
    """
    if not all(map(can_roll, layers.values())):
        return None
    settings = next(iter(layers.values()))
    window = max(settings.narrowed(settings.kind).window[0] + 1, own_width)
    return Kept(window, settings.sink_tokens, positions)


def can_roll(settings: LayerSettings) -> bool:
    """Whether a layer sees a bounded number of keys that a window of a patch bounds.

    Once keys are evicted, the distance of a sink token is smaller in the cache than in the sequence, and at
    least the window: a bias by distance must be constant from there on.
    """
    kind = settings.kind
    if kind is None or settings.window is None or kind.cross:
        return False
    narrow, distance = settings.narrowed(kind), settings.bias_distance
    if settings.sink_tokens and (distance is None or distance > narrow.window[0] + 1):
        return False
    return narrow is not kind and narrow.window[1] == 0 and narrow.window[0] >= 0


def roll(cache: Cache, layers: Layers, widths: Mapping[int, int], positions: str) -> Kept | None:
    """Gives a cache rolling layers, with the keys that it has.

    Layers with a window of their own roll with the others where the cache would keep all of their keys: they
    have the mask, or at least the mask's sizes, of the others. Their windows end before the sink tokens.

    Args:
        cache: the cache; a part of it for self attention, if it has one.
        layers: the settings of the layers that a window of a patch changes, by their number.
        widths: keys that a query sees in layers with a window of their own, by their number.
        positions: as in `patch`.

    Returns:
        What the layers keep; None for a cache whose layers have a memory besides keys, which does not roll.

    Raises:
        ValueError: a cache that cannot roll; one of another window; one that a forward has left half done.
    """
    own = own_part(cache)
    first = own.layers[min(layers)] if min(layers) < len(own.layers) else None
    if isinstance(first, RollingLayer):
        beside = _without_own_layers(own.layers, widths)
        return _checked(own, {*layers, *beside}, first.kept, kept_by(layers, positions, _widest(beside)))
    if kept_by(layers, positions) is None:
        return None
    total = max({*layers, *widths}) + 1
    missing = total - len(own.layers) if own.layer_class_to_replicate is not None else 0
    whole = own.layers + [own.layer_class_to_replicate() for _ in range(missing)]
    beside = _without_own_layers(whole, widths)
    kept = kept_by(layers, positions, _widest(beside))
    found = _layers_with_keys(whole, {*layers, *beside})
    if any(isinstance(layer, LAYERS_WITH_STATES) for layer in found.values()):
        return None
    _check_kind(own, found, kept)
    static = next((layer for layer in found.values() if type(layer) is StaticLayer), None)
    kept.max_length = None if static is None else static.max_cache_len
    records = any(getattr(layer, "record_past", False) for layer in whole)
    for number, layer in found.items():
        whole[number] = _rolling(layer, kept)
        whole[number].record_past = records
    own.layers[:] = whole
    return kept


def _without_own_layers(whole: Sequence[CacheLayerMixin], widths: Mapping[int, int]) -> dict[int, int]:
    """The widths of the layers whose window the layers of a cache do not have."""
    known = (*_FULL, RollingLayer)
    return {n: width for n, width in widths.items() if n < len(whole) and type(whole[n]) in known}


def _widest(widths: Mapping[int, int]) -> int:
    return max(widths.values(), default=0)


def _layers_with_keys(whole: Sequence[CacheLayerMixin], layers: Iterable[int]) -> dict[int, CacheLayerMixin]:
    """The layers of a cache that roll, without those of attention layers that read the keys of other ones."""
    found = {number: whole[number] for number in layers if number < len(whole)}
    return {number: layer for number, layer in found.items() if not isinstance(layer, LAYERS_WITHOUT_KEYS)}


def _check_kind(cache: Cache, layers: Mapping[int, CacheLayerMixin], kept: Kept) -> None:
    allowed = "expected a DynamicCache or a StaticCache; for others, call lckernels.patch without a window"
    if cache.offloading:
        raise bad("cache", f"{type(cache).__name__} with offloading", f"it keeps no window. {allowed}")
    for number, layer in layers.items():
        # Some models with full attention have a sliding cache, which has lost keys once it has some.
        empty = type(layer) in _SLIDING and not layer.get_seq_length()
        if type(layer) not in _FULL and not empty:
            got = f"{type(cache).__name__} with {type(layer).__name__} in layer {number}"
            raise bad("cache", got, f"it keeps no window of {kept.window} keys. {allowed}")


def _checked(cache: Cache, layers: Iterable[int], kept: Kept, expected: Kept | None) -> Kept:
    """What a rolling cache keeps, if it belongs to these layers and is whole."""
    found = list(_layers_with_keys(cache.layers, layers).values())
    if len(cache.layers) <= max(layers) or any(getattr(layer, "kept", None) is not kept for layer in found):
        raise bad("cache", "a KV cache with a window in other layers", "expected the cache of this model")
    if expected is None or _described(expected) != _described(kept):
        wanted = "every key" if expected is None else _described(expected)
        allowed = f"the patch requires {wanted}; expected a new cache"
        raise bad("cache", f"a KV cache that keeps {_described(kept)}", allowed)
    lengths = sorted({layer.get_seq_length() for layer in found})
    if len(lengths) > 1:
        raise bad(
            "cache", f"a KV cache whose layers hold {lengths[0]} and {lengths[-1]} tokens",
            "a forward was interrupted; expected a new cache, or one after reset()",
        )  # fmt: skip
    return kept


def _described(kept: Kept) -> str:
    return f"a window of {kept.window} keys, {kept.sink_tokens} sink tokens, positions {kept.positions!r}"


def _rolling(layer: CacheLayerMixin, kept: Kept) -> RollingLayer:
    """A rolling layer with the layer's keys."""
    rolling = RollingLayer(kept)
    length = int(layer.get_seq_length())
    if length:
        rolling.take(layer.keys[:, :, :length], layer.values[:, :, :length])
    return rolling


def new_cache(config: object, encoder_decoder: bool) -> Cache:
    """The cache that a model creates by default."""
    cache = DynamicCache(config=config)
    return EncoderDecoderCache(cache, DynamicCache()) if encoder_decoder else cache


def record(cache: Cache, past: bool) -> None:
    """Sets whether the rolling layers of a cache keep every key of a call until `crop`."""
    own = own_part(cache)
    for layer in own.layers:
        if isinstance(layer, RollingLayer):
            layer.record_past = past
