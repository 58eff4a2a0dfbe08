"""Step 3.7: the mask functions of its bidirectional form."""

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import Pattern, two_sided

FAMILY = Family(
    name="step3p7",
    mask_readers={
        ("modeling_step3p7", "_bidirectional_window_overlay.<locals>.inner_mask"): lambda closure: two_sided(
            *(closure["sliding_window"],) * 2
        ),
        ("modeling_step3p7", "Step3p7TextModel.forward.<locals>.<lambda>"): lambda closure: Pattern(),
    },
)
