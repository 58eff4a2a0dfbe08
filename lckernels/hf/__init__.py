"""lckernels inside Hugging Face transformers, through its attention interface. Importing changes nothing.

After `lckernels.hf.register()`, `attn_implementation="lckernels"` is windowed_attention for every mask that
is causal, bidirectional, a sliding window, chunked, packed or padded; others run densely, with a warning.
`lckernels.patch(model)` does the same for one model, and says of each layer what it did.
"""

# ruff: noqa: E402
from lckernels.extras import import_extra

import_extra("transformers", "hf")

from lckernels.hf.attention import NAME, register
from lckernels.hf.patch import patch, patched, unpatch
from lckernels.hf.report import Report

__all__ = ["NAME", "Report", "patch", "patched", "register", "unpatch"]
