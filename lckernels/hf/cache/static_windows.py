"""Static caches of layers with a window of their own: two uses that transformers 5.24 does not check.

A static cache that is shorter than the window of a layer, and is filled beyond its length, has a window of
its length from then on. One that is cropped after its window was passed lacks the keys before.
"""

from collections.abc import Iterator, Mapping

import torch
from transformers import Cache, StaticSlidingWindowLayer

from lckernels.checks import bad
from lckernels.hf.cache.convert import own_part

# Attribute of such a layer: its tokens, and the version of its keys, after the last call of a patched model.
_LAST = "_lckernels_last_call"


class StaticWindows:
    """The layers of a cache that are static and have a window; false if there are none.

    Attributes:
        layers: each with the keys that a query sees.
    """

    def __init__(self, cache: Cache, widths: Mapping[int, int]) -> None:
        compiled = torch.compiler.is_compiling()
        self.layers = () if compiled else tuple(_static_layers(own_part(cache), widths))

    def __bool__(self) -> bool:
        return bool(self.layers)

    def check(self, num_tokens: int) -> None:
        """Raises ValueError for a call whose result would be wrong, before it runs."""
        for layer, width in self.layers:
            length, size = int(layer.get_seq_length()), layer.max_cache_len
            total = length + num_tokens
            before, version = getattr(layer, _LAST, (0, None))
            if size < width and total > size:
                raise bad(
                    "cache", f"a static cache of {size} tokens for {total}",
                    f"a layer with a window of {width} keys would see {size}; expected a longer cache",
                )  # fmt: skip
            if 0 < length < before and before > size and version == _version(layer):
                raise bad(
                    "cache", f"a static cache that was cropped from {before} to {length} tokens",
                    f"it keeps the last {size} keys of a layer, so that the ones before are lost; expected a "
                    "new cache, or a DynamicCache after activate_past_recording()",
                )  # fmt: skip

    def store(self) -> None:
        """Stores the lengths after a call."""
        for layer, _ in self.layers:
            setattr(layer, _LAST, (int(layer.get_seq_length()), _version(layer)))


def _version(layer: StaticSlidingWindowLayer) -> int | None:
    """A number that each change of the layer's keys increases; None where torch has none."""
    return None if layer.keys is None or layer.keys.is_inference() else layer.keys._version


def _static_layers(cache: Cache, widths: Mapping[int, int]) -> Iterator[tuple[StaticSlidingWindowLayer, int]]:
    for number, width in widths.items():
        layer = cache.layers[number] if number < len(cache.layers) else None
        if isinstance(layer, StaticSlidingWindowLayer):
            yield layer, width
