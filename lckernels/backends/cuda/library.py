"""The compiled library _C_cuda.so, and tensors aligned for its private ops."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lckernels.backends.shared.compiled_library import load_library
from lckernels.backends.shared.tensor_rows import contiguous_rows

LIBRARY = Path(__file__).resolve().parents[2] / "_C_cuda.so"
MIN_CAPABILITY = (8, 0)
LARGE_BLOCK_BYTES = 143 * 1024  # upper bound of the shared memory of the largest kernel
_ROW_BYTES = 16  # of one copy instruction


@cache
def unavailable() -> str:
    """Loads _C_cuda.so once; returns why it cannot be used on this machine, or an empty string."""
    if not LIBRARY.exists():
        return "lckernels/_C_cuda.so was not built (`make cuda` builds it where nvcc is)"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    major, minor = min(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    if (major, minor) < MIN_CAPABILITY:
        return f"its kernels need compute capability 8.0, a GPU here has {major}.{minor}"
    return (
        load_library(LIBRARY, "lckernels_cuda", "missing_driver") or torch.ops.lckernels_cuda.missing_driver()
    )


@cache
def large_blocks() -> bool:
    """Whether every GPU has the shared memory that head dims above 96 require: not sm_86, sm_89, sm_120."""
    gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return all(gpu.shared_memory_per_block_optin >= LARGE_BLOCK_BYTES for gpu in gpus)


def aligned_rows(x: Tensor) -> Tensor:
    """x with a contiguous last dim and every row aligned to 16 bytes; copied once if it is not."""
    x = contiguous_rows(x)
    size = x.element_size()
    offsets = (x.data_ptr(), *(stride * size for stride in x.stride()[:-1]))
    return (
        x
        if all(offset % _ROW_BYTES == 0 for offset in offsets)
        else x.clone(memory_format=torch.contiguous_format)
    )
