"""lckernels inside Hugging Face transformers, through its attention interface. Importing changes nothing.

After `lckernels.hf.register()`, `attn_implementation="lckernels"` is windowed_attention for encoders that see
everything but padding; other masks fall back to the dense ones of transformers, with a warning.
"""

from lckernels.hf.attention import NAME, register

__all__ = ["NAME", "register"]
