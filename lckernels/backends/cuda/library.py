"""The compiled library _C_cuda.so, and tensors as its private ops take them."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lckernels.backends.tensor_rows import contiguous_rows

LIBRARY = Path(__file__).resolve().parents[2] / "_C_cuda.so"
_ROW_BYTES = 16  # what one copy of a kernel moves


@cache
def unavailable() -> str:
    """Loads _C_cuda.so once; why it cannot be used here, or empty."""
    if not LIBRARY.exists():
        return "lckernels/_C_cuda.so was not built (`make cuda` builds it where nvcc is)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    torch.ops.load_library(LIBRARY)
    return ""


def aligned_rows(x: Tensor) -> Tensor:
    """x with a contiguous last dim and every row aligned to 16 bytes; copied once if it is not so."""
    x = contiguous_rows(x)
    size = x.element_size()
    offsets = (x.data_ptr(), *(stride * size for stride in x.stride()[:-1]))
    return (
        x
        if all(offset % _ROW_BYTES == 0 for offset in offsets)
        else x.clone(memory_format=torch.contiguous_format)
    )
