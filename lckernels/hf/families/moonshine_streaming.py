"""Moonshine streaming: each layer of its encoder has a window (keys before, keys after)."""

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import two_sided

_MODULE = "transformers.models.moonshine_streaming.modeling_moonshine_streaming"
_MASK = (_MODULE, "sliding_window_mask_function.<locals>.inner_mask")

FAMILY = Family(
    name="moonshine_streaming", mask_readers={_MASK: lambda closure: two_sided(*closure["sliding_window"])}
)
