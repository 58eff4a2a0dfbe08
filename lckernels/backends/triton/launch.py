"""Starting a kernel, and tensors as the kernels take them."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from lckernels.backends.tensor_rows import contiguous_rows


class Rows(NamedTuple):
    """A (batch, seqlen, heads, head_dim) tensor with a contiguous last dim: its strides in elements."""

    ptr: Tensor
    stride_b: int
    stride_m: int
    stride_h: int


@cache
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors of the CPU (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret)


def launch(kernel: Callable, grid: int, x: Tensor, *args: Any, **meta: Any) -> None:
    """Runs `grid` programs on x's device and its current stream; nothing is waited for."""
    if grid == 0:
        return
    elsewhere = x.is_cuda and x.device.index != torch.cuda.current_device()
    with torch.cuda.device(x.device) if elsewhere else nullcontext():
        kernel[(grid,)](*args, enable_fp_fusion=True, **meta)  # Triton 3.10 turns it off by default


def rows(x: Tensor) -> Rows:
    """(batch, seqlen, heads, head_dim) as a kernel reads it."""
    x = contiguous_rows(x)
    return Rows(x, *x.stride()[:3])
