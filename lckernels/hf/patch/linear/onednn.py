"""The ops of torch that oneDNN's packed weights require; a version of torch may have others."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lckernels.hf.private import activations

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
IDENTITY = ("none", "")  # (attr, algorithm) of no activation
_GELU, _GELU_TANH, _SILU = ("gelu", "none"), ("gelu", "tanh"), ("swish", "")
# No ReLU: oneDNN's is 0 for NaN.
_OF_FUNCTION = {F.gelu: _GELU, F.silu: _SILU}
_OF_NAME = {"gelu": _GELU, "gelu_new": _GELU_TANH, "gelu_pytorch_tanh": _GELU_TANH, "silu": _SILU}
_OF_CLASS = {nn.SiLU: _SILU}
_OF_CLASS.update((type(activations[name]), fused) for name, fused in _OF_NAME.items() if name in activations)


def missing() -> str:
    """Why no weight can be packed; empty if weights can."""
    if not torch.backends.mkldnn.is_available():
        return "torch was built without oneDNN"
    ops = (getattr(torch.ops.mkldnn, name, None) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return "" if all(ops) else "this torch has no ops for packed weights"


def activation_of(activation: object) -> tuple[str, str] | None:
    """(attr, algorithm) of a module or function; None if a product has it not, or not for every value."""
    if type(activation) is nn.GELU:
        return ("gelu", activation.approximate)
    if isinstance(activation, nn.Module):
        replaced = "forward" in activation.__dict__
        return None if replaced else _OF_CLASS.get(type(activation))
    return next((fused for function, fused in _OF_FUNCTION.items() if function is activation), None)


def pack(weight: Tensor, rows: int) -> Tensor:
    """The packed copy of a weight (out_features, in_features), an opaque tensor.

    Args:
        weight: contiguous, on the CPU.
        rows: number of input rows that the order of the values is best for; any number is supported.

    Raises:
        RuntimeError: the processor does not support the dtype.
    """
    with torch.inference_mode(False), torch.no_grad():
        return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)


def product(x: Tensor, packed: Tensor, bias: Tensor | None, activation: tuple[str, str]) -> Tensor:
    """activation(x @ weight.T + bias): (..., in_features) -> (..., out_features)."""
    attr, algorithm = activation
    return torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, attr, [], algorithm)
