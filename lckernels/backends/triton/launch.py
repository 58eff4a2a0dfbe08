"""Kernel launches, and tensors as arguments of kernels."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lckernels.backends.shared.tensor_rows import contiguous_rows


class Rows(NamedTuple):
    """A (batch, seqlen, heads, head_dim) tensor with a contiguous last dim, and its strides in elements."""

    ptr: Tensor
    stride_b: int
    stride_m: int
    stride_h: int


_ALIGNMENT = 16  # bytes: a tensor descriptor's rows begin at multiples of it


@cache
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on tensors of the CPU (TRITON_INTERPRET=1)."""
    return bool(triton.knobs.runtime.interpret)


def launch(kernel: Callable, grid: int, x: Tensor, *args: Any, **meta: Any) -> None:
    """Runs `grid` programs on x's device and its current stream, asynchronously."""
    if grid == 0:
        return
    elsewhere = x.is_cuda and x.device.index != torch.cuda.current_device()
    with torch.cuda.device(x.device) if elsewhere else nullcontext():
        kernel[(grid,)](*args, enable_fp_fusion=True, **meta)  # Triton 3.10 turns it off by default


def rows(x: Tensor) -> Rows:
    """x (batch, seqlen, heads, head_dim) as an argument of a kernel."""
    x = contiguous_rows(x)
    return Rows(x, *x.stride()[:3])


def blocks(x: Rows, num_rows: int, num_dims: int) -> TensorDescriptor | None:
    """x's tiles (num_rows, num_dims) as a tensor descriptor of (batch, heads, seqlen, head_dim).

    None if a descriptor cannot describe x: without rows, with repeated rows, or where rows are not aligned
    to 16 bytes.
    """
    batch, seqlen, heads, head_dim = x.ptr.shape
    sizes = (batch, heads, seqlen)
    strides = tuple(
        _ALIGNMENT if size == 1 else stride
        for size, stride in zip(sizes, (x.stride_b, x.stride_h, x.stride_m), strict=True)
    )
    places = (x.ptr.data_ptr(), *(stride * x.ptr.itemsize for stride in strides))
    if any(place % _ALIGNMENT for place in places) or min(*sizes, *strides) < 1:
        return None
    return TensorDescriptor(x.ptr, [*sizes, head_dim], [*strides, 1], [1, 1, num_rows, num_dims])
