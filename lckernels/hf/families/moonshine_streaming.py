"""Moonshine streaming: each layer of its encoder has a window (keys before, keys after)."""

from transformers import PreTrainedConfig

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import two_sided

_MODULE = "transformers.models.moonshine_streaming.modeling_moonshine_streaming"
_MASK = (_MODULE, "sliding_window_mask_function.<locals>.inner_mask")
_WINDOWS = "sliding_windows"
_NOTE = (
    "only a call with an attention_mask has these windows; without one a frame sees the whole recording. "
    "(l, r) is the frame, l - 1 before it and r - 1 after it"
)


def _notes(config: PreTrainedConfig) -> dict[str, str]:
    return {_WINDOWS: _NOTE} if getattr(config, _WINDOWS, None) else {}


FAMILY = Family(
    name="moonshine_streaming",
    mask_readers={_MASK: lambda closure: two_sided(*closure["sliding_window"])},
    config_notes=_notes,
)
