"""The ops in an ONNX graph: a table for `torch.onnx.export(..., custom_translation_table=...)`.

`translation_table()` translates windowed_attention to onnxruntime's own operators where they compute the
same, and to operators of ONNX with a mask elsewhere; docs/export.md lists which.
"""

# ruff: noqa: E402
from lckernels.extras import import_extra

import_extra("onnxscript", "onnx")

from lckernels.onnx.call import NotTranslated
from lckernels.onnx.table import translation_table

__all__ = ["NotTranslated", "translation_table"]
