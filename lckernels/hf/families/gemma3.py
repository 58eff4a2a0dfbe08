"""Gemma 3: the mask functions of its bidirectional form (EmbeddingGemma)."""

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import Pattern, two_sided

FAMILY = Family(
    name="gemma3",
    mask_readers={
        ("modeling_gemma3", "_bidirectional_window_overlay.<locals>.inner_mask"): lambda closure: two_sided(
            *(closure["sliding_window"],) * 2
        ),
        ("modeling_gemma3", "Gemma3TextModel.forward.<locals>.<lambda>"): lambda closure: Pattern(),
    },
)
