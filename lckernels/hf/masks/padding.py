"""Padding as bounds of the valid keys."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.options import Layout


def valid_keys(attention_mask: Tensor | None, kv_length: int, kv_offset: int) -> Tensor | None:
    """The part of a 2-D mask for the keys, (batch, kv_length) bool; cache slots beyond it are invalid."""
    if attention_mask is None:
        return None
    missing = kv_offset + kv_length - attention_mask.shape[1]
    if missing > 0:
        attention_mask = F.pad(attention_mask, (0, missing))
    return attention_mask[:, kv_offset : kv_offset + kv_length]


def padding_layout(valid: Tensor | None) -> Layout:
    """A layout with the bounds of the valid keys; padding in the middle stays a mask.

    The values of `valid` are read only on the CPU and only outside tracing and FakeTensorMode; elsewhere it
    stays beside the bounds.

    Args:
        valid: (batch, seqlen_k) bool; None: all keys are valid.
    """
    read = valid is not None and has_values(valid)
    if valid is None or (read and bool(valid.all())):
        return Layout()
    seqlen_k = valid.shape[1]
    number = valid.to(torch.uint8)
    some = valid.any(1)
    kv_start = torch.where(some, number.argmax(1), 0)
    kv_end = torch.where(some, seqlen_k - number.flip(1).argmax(1), 0)
    whole = read and bool((kv_end - kv_start == number.sum(1)).all())
    return Layout(kv_start=kv_start, kv_end=kv_end, kv_mask=None if whole else valid)


def has_values(x: Tensor) -> bool:
    """Whether the host may read the values: not on a GPU, and not where a later call has other values."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return type(x) is Tensor and x.device.type == "cpu" and not traced
