"""lckernels in Hugging Face transformers, through its attention interface.

Importing this package registers the attention implementation `lckernels` in transformers; no model changes.
`attn_implementation="lckernels"` runs windowed_attention for every mask that is causal, bidirectional, a
sliding window, chunked, packed or padded; other masks run as dense attention, with a warning.
`lckernels.patch(model)` does the same for one model and returns a report of each layer.
"""

# ruff: noqa: E402
from lckernels.extras import import_extra

import_extra("transformers", "hf")

from lckernels.hf import families  # noqa: F401
from lckernels.hf.interface import NAME, register
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.patch import patch, patched, unpatch
from lckernels.hf.report import Report

register()

__all__ = ["NAME", "NotServed", "Report", "patch", "patched", "register", "unpatch"]
