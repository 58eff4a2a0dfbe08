"""The forward of a linear layer with a packed weight."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.hf.fused import has_hooks
from lckernels.hf.patch.linear import onednn
from lckernels.hf.patch.linear.weight import PackedWeight
from lckernels.hf.patch.methods import PATCHED, InstalledMethod, switched_view
from lckernels.instance_attributes import Absent
from lckernels.ops.registration import is_intercepted

FEW_ROWS, MANY_ROWS = 2, 64  # the first number of rows of the second and third class


@dataclass(frozen=True)
class Rows:
    """Whether calls with one row, with few rows (2 to 63) and with many rows run on the packed weight."""

    one: bool
    few: bool
    many: bool

    def take(self, rows: int) -> bool:
        """Whether a call with so many rows does."""
        if rows >= MANY_ROWS:
            return self.many
        return self.few if rows >= FEW_ROWS else self.one and rows == 1

    def __bool__(self) -> bool:
        return self.one or self.few or self.many


class PackedForward(InstalledMethod):
    """A layer's forward: one product with the packed weight where that is possible, else its class's own.

    Attributes:
        weight: the packed weight.
        rows: the calls that run on it.
    """

    def __init__(
        self, module: nn.Linear, weight: PackedWeight, rows: Rows, own: Any = Absent, uses: int = 0
    ) -> None:
        super().__init__(module, "forward", own, uses)
        self.weight, self.rows = weight, rows
        self.any_rows = rows.one and rows.few and rows.many

    def __call__(self, input: Tensor) -> Tensor:  # the name of torch's argument
        result = self.product(input)
        return type(self.module).forward(self.module, input) if result is None else result

    def product(self, x: Tensor, activation: tuple[str, str] = onednn.IDENTITY) -> Tensor | None:
        """activation of the layer's result; None if the layer's own code must run.

        That is: outside of patch or the thread's context, with gradients, for an input that is no ordinary
        tensor, under a mode, a trace, a transform or autocast, and with another parameter than the packed.
        """
        if torch.compiler.is_dynamo_compiling():
            return None
        module = self.module
        if PATCHED not in module.__dict__ and switched_view(module) is None:
            return None
        if type(module) is not nn.Linear or (type(x) is not Tensor and type(x) is not nn.Parameter):
            return None
        known, held = self.weight, module._parameters
        in_features, weight, bias = known.shape[1], held.get("weight"), held.get("bias")
        if not self.any_rows and (torch.jit.is_tracing() or not self.rows.take(x.numel() // in_features)):
            return None
        if is_intercepted() or not torch._C._get_mkldnn_enabled():
            return None
        if not (x.is_cpu and x.dtype is known.dtype and x.layout is torch.strided and not x.is_nested):
            return None
        if x.dim() == 0 or x.shape[-1] != in_features:
            return None
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
            return None
        if bias is not None and not (type(bias) is nn.Parameter and bias.dtype is x.dtype and bias.is_cpu):
            return None
        packed = known.current(weight)
        return None if packed is None else onednn.product(x, packed, bias, activation)

    def activated(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor | None:
        """activation(layer(x)) as one product; None if both must run, as for a hook on one of them."""
        fused = self.fused(activation)
        return None if fused is None else self.product(x, fused)

    def fused(self, activation: Callable[[Tensor], Tensor]) -> tuple[str, str] | None:
        """The activation as `onednn.product` takes it; None if it has it not, or a hook is on one of both."""
        return None if has_hooks(self.module) or has_hooks(activation) else onednn.activation_of(activation)

    def of_replica(self, replica: nn.Module) -> MethodType:
        """The class's own: replicas compute on other devices."""
        return MethodType(type(replica).forward, replica)

    def _copied(self) -> tuple:
        """It packs at its first call."""
        return PackedForward, (self.module, self.weight, self.rows, self.own, 1)
