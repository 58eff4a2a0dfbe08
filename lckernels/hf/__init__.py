"""lckernels inside Hugging Face transformers, through its attention interface. Importing changes nothing.

After `lckernels.hf.register()`, `attn_implementation="lckernels"` is windowed_attention for encoders that see
everything but padding; other masks fall back to the dense ones of transformers, with a warning.
"""

# ruff: noqa: E402
from lckernels.extras import import_extra

import_extra("transformers", "hf")

from lckernels.hf.attention import NAME, register

__all__ = ["NAME", "register"]
