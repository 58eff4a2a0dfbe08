"""T5Gemma 2: the window of its encoder is one key wider before the query than after it, for odd widths."""

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import Pattern, two_sided
from lckernels.hf.masks.readers import Closure


def _window(closure: Closure) -> Pattern | None:
    width = closure["sliding_window"]
    return two_sided(width, 0) if closure["is_causal"] else two_sided((width + 1) // 2, width // 2 + 1)


_MODULE = "transformers.models.t5gemma2.modeling_t5gemma2"

FAMILY = Family(
    name="t5gemma2",
    mask_readers={(_MODULE, "sliding_window_mask_function.<locals>.inner_mask"): _window},
)
