"""Gemma 3: the mask functions of its bidirectional form (EmbeddingGemma)."""

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import Pattern, two_sided

_MODULE = "transformers.models.gemma3.modeling_gemma3"

FAMILY = Family(
    name="gemma3",
    mask_readers={
        (_MODULE, "_bidirectional_window_overlay.<locals>.inner_mask"): lambda closure: two_sided(
            *(closure["sliding_window"],) * 2
        ),
        (_MODULE, "Gemma3TextModel.forward.<locals>.<lambda>"): lambda closure: Pattern(),
    },
)
