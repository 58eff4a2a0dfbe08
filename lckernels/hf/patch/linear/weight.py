"""The packed copy of one weight, made again when the weight has changed."""

from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.hf.patch.linear import onednn

SAMPLE = 64  # values of a weight that are compared at each call
_INTEGERS = {4: torch.int32, 2: torch.int16}  # of a dtype's size, for comparisons of bits


class PackedWeight:
    """The packed copy of a parameter; layers with the same parameter share it.

    A call compares what torch shows of a change (version, address, dtype, shape) and the bits of 64 values,
    since a write through `parameter.data` changes no version. If they differ, the weight is packed again.

    Attributes:
        parameter: (out_features, in_features).
        dtype: of the parameter when the layer was measured; another one is not packed.
        shape: the same.
        rows: as of `onednn.pack`.
    """

    def __init__(self, parameter: nn.Parameter, rows: int) -> None:
        self.parameter, self.rows = parameter, rows
        self.dtype, self.shape = parameter.dtype, parameter.shape
        self._copy: _Copy | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copy": None}  # a copy of the model packs at its first call

    @property
    def nbytes(self) -> int:
        """Bytes of the packed copy, without padding."""
        return self.shape.numel() * self.dtype.itemsize

    def current(self, weight: Tensor | None) -> Any:
        """The packed copy of the layer's present weight; None if it is another parameter, or not packable."""
        if weight is not self.parameter:
            return None
        copied = self._copy
        if copied is None or not copied.is_of(weight):
            copied = self._copy = self._pack(weight)
        return None if copied is None else copied.packed

    def _pack(self, weight: nn.Parameter) -> "_Copy | None":
        same = weight.dtype is self.dtype and weight.shape == self.shape
        return _Copy(weight, self.packing(weight)) if same and not why_not_packable(weight) else None

    def packing(self, weight: nn.Parameter) -> Any:
        """What `current` returns of a weight until it changes."""
        return onednn.pack(weight, self.rows)


class _Copy:
    """A packed copy, and what the weight was."""

    __slots__ = ("address", "bits", "packed", "sample", "shape", "stride", "type", "version")

    def __init__(self, weight: nn.Parameter, packed: Any) -> None:
        self.version, self.address, self.type = weight._version, weight.data_ptr(), weight.dtype
        self.shape, self.stride = weight.shape, weight.stride()
        values = weight.detach().view(_INTEGERS[weight.element_size()]).numpy().reshape(-1)
        # A view: it keeps the storage, so that the address has no other weight later.
        self.sample = values[:: _sample_step(*weight.shape)][:SAMPLE]
        self.bits = self.sample.tobytes()
        self.packed = packed

    def is_of(self, weight: nn.Parameter) -> bool:
        """Whether the weight is as it was; its address is compared before the sample is read."""
        return (
            weight._version == self.version
            and weight.data_ptr() == self.address
            and weight.dtype is self.type
            and weight.shape == self.shape
            and weight.stride() == self.stride
            and self.sample.tobytes() == self.bits
        )


def _sample_step(out_features: int, in_features: int) -> int:
    """A step through the values of a weight that meets different rows and columns."""
    step = max(out_features * in_features // SAMPLE, 1)
    while gcd(step, in_features) > 1:
        step -= 1
    return step


def why_not_packable(weight: Tensor | None) -> str:
    """Why a layer's weight cannot be packed; empty if it can."""
    if type(weight) is not nn.Parameter:
        return "no weight" if weight is None else f"its weight is a {type(weight).__name__}"
    if not weight.is_cpu:
        return f"its weight is on {weight.device.type}"
    if weight.dtype not in onednn.DTYPES:
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if weight.is_inference():
        return "its weight is an inference tensor, which shows no changes"
    if weight.layout is not torch.strided or weight.dim() != 2 or not weight.is_contiguous():
        return "its weight is not a contiguous matrix"
    if not weight.numel() or not weight.untyped_storage().nbytes():
        return "its weight is empty"
    return ""
