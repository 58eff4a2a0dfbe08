"""Step 3.7: the mask functions of its bidirectional form."""

from lckernels.hf.family import Family
from lckernels.hf.masks.patterns import Pattern, two_sided

_MODULE = "transformers.models.step3p7.modeling_step3p7"

FAMILY = Family(
    name="step3p7",
    mask_readers={
        (_MODULE, "_bidirectional_window_overlay.<locals>.inner_mask"): lambda closure: two_sided(
            *(closure["sliding_window"],) * 2
        ),
        (_MODULE, "Step3p7TextModel.forward.<locals>.<lambda>"): lambda closure: Pattern(),
    },
)
