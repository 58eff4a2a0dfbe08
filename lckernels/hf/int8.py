"""Linear layers in int8: a scale for each token and each output feature, products of oneDNN.

A token's result has the same bits in every batch: its scale is of its own values, the products are sums of
integers, and each operation after them rounds once.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.hf.patch.linear.weight import PackedWeight
from lckernels.instance_attributes import Absent, Installed
from lckernels.ops.registration import is_intercepted

LARGEST = 127
ROWS = 1024  # of a piece, whose values stay in the cache
_ZERO = 128  # of unsigned activations; for signed ones oneDNN has no fast product on x86
_SMALLEST = 1e-30  # of a scale


@dataclass(frozen=True)
class Int8Matrix:
    """A quantized weight: about `packed * scale`.

    Attributes:
        packed: int8, in oneDNN's order, an opaque tensor.
        scale: (out_features,) float32.
        zero: (out_features,) int64 zeros, an argument of the product.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor

    def product(self, rows: Tensor) -> Tensor:
        """(num_rows, out_features) float32: `(rows - 128) @ packed.T * scale`, of uint8 rows."""
        return torch.ops.onednn.qlinear_pointwise.default(
            rows, 1.0, _ZERO, self.packed, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )


def quantize_weight(weight: Tensor) -> Int8Matrix:
    """The int8 copy of a weight (out_features, in_features), rounded to the nearest, half to even."""
    with torch.inference_mode(False), torch.no_grad():
        values = weight.detach().float()
        scale = values.abs().amax(1).div_(LARGEST).clamp_min_(_SMALLEST)
        rounded = (values / scale[:, None]).round_().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        return Int8Matrix(packed, scale, torch.zeros(len(scale), dtype=torch.int64))


def int8_linear(x: Tensor, weight: Int8Matrix, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias with x in int8: (..., in_features) -> (..., out_features) in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1])
    out = rows.new_empty(len(rows), len(weight.scale))
    values = torch.empty(min(len(rows), ROWS), rows.shape[1])
    bias = None if bias is None else bias.float()
    for first in range(0, len(rows), ROWS):
        piece = rows[first : first + ROWS]
        _piece(piece, weight, bias, values[: len(piece)], out[first : first + ROWS])
    return out.view(*x.shape[:-1], -1)


def _piece(x: Tensor, weight: Int8Matrix, bias: Tensor | None, values: Tensor, out: Tensor) -> None:
    """Writes the result for some rows to `out`; `values` is memory, (num_rows, in_features) float32."""
    x = x.float()
    torch.abs(x, out=values)
    scale = values.amax(-1, keepdim=True).mul_(1 / LARGEST).clamp_min_(_SMALLEST)
    # The conversion drops the fraction, so that 0.5 more rounds to the nearest.
    rounded = torch.div(x, scale, out=values).add_(_ZERO + 0.5).to(torch.uint8)
    product = weight.product(rounded).mul_(scale)
    if bias is None:
        out.copy_(product)
    elif out.dtype is torch.float32:
        torch.add(product, bias, out=out)
    else:
        out.copy_(product.add_(bias))


@cache
def missing() -> str:
    """Why this machine and torch have no int8 products; empty if they have."""
    ops = (getattr(torch.ops.onednn, name, None) for name in ("qlinear_prepack", "qlinear_pointwise"))
    if not (torch.backends.mkldnn.is_available() and all(ops)):
        return "this torch has no int8 products of oneDNN"
    try:
        exact = _products_are_exact()
    except RuntimeError as error:
        return f"oneDNN has no int8 product here: {str(error).partition(chr(10))[0]}"
    return "" if exact else "its int8 products overflow (it has no VNNI)"


def _products_are_exact() -> bool:
    """Whether sums of the largest products are exact: without VNNI pairs of them exceed 16 bits."""
    in_features, signs = 64, torch.tensor([1.0, -1.0]).repeat(32)
    with torch.inference_mode(False), torch.no_grad():
        matrix = quantize_weight(signs[:, None].expand(-1, in_features) * LARGEST)
        rows = torch.tensor([[2 * _ZERO - 1], [1]], dtype=torch.uint8).expand(-1, in_features).contiguous()
        expected = torch.tensor([[1.0], [-1.0]]) * signs * (LARGEST * LARGEST * in_features)
        return torch.equal(matrix.product(rows), expected)


class Int8Weight(PackedWeight):
    """The int8 copy of one parameter, made again when the parameter has changed.

    Args:
        parameter: (out_features, in_features).
    """

    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__(parameter, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of the copy and its scales."""
        return self.shape.numel() + 12 * self.shape[0]

    def packing(self, weight: nn.Parameter) -> Int8Matrix:
        return quantize_weight(weight)


class Int8Forward(Installed):
    """A layer's forward in int8; the layer's own code where that is impossible, as for gradients.

    Attributes:
        weight: the int8 copy.
    """

    def __init__(self, module: nn.Linear, weight: Int8Weight, own: Any = Absent, uses: int = 0) -> None:
        super().__init__(module, "forward", own, uses)
        self.weight = weight

    def __call__(self, input: Tensor) -> Tensor:  # the name of torch's argument
        if torch.compiler.is_dynamo_compiling() or not self._fits(input):
            return type(self.module).forward(self.module, input)
        held = self.module._parameters
        matrix = self.weight.current(held.get("weight"))
        if matrix is None:
            return type(self.module).forward(self.module, input)
        return int8_linear(input, matrix, held.get("bias"))

    def _fits(self, x: Tensor) -> bool:
        """Whether the input is an ordinary one, without gradients, a mode, a trace or autocast."""
        if is_intercepted() or (type(x) is not Tensor and type(x) is not nn.Parameter):
            return False
        known, bias = self.weight, self.module._parameters.get("bias")
        if not (x.is_cpu and x.dtype is known.dtype and x.layout is torch.strided and not x.is_nested):
            return False
        if x.dim() == 0 or x.shape[-1] != known.shape[1] or not (bias is None or bias.is_cpu):
            return False
        parts = (x, *self.module._parameters.values())
        return not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in parts))

    def of_replica(self, replica: nn.Module) -> Any:
        """The class's own: replicas compute on other devices."""
        return type(replica).forward.__get__(replica)
