"""Registration of a public torch op: schema, kernel, fake, autograd and autocast in one call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("lckernels", "DEF")
_NO_TRANSFORMS = (
    "lckernels.{}: got a transform of torch.func (grad, vjp, jvp, ...); expected Tensor.backward() or "
    "torch.autograd.grad, which the ops support"
)


def register(
    name: str,
    schema: str,
    kernel: Callable,
    fake: Callable,
    *,
    apply: Callable | None = None,
    num_autocast: int = 0,
) -> torch._ops.OpOverload:
    """Defines lckernels::name with one kernel for all devices.

    Args:
        name: of the op.
        schema: its arguments and results, without the name.
        kernel: called on every device, below autograd and autocast.
        fake: returns results of the right shapes, dtypes and devices, without data.
        apply: the `apply` of the op's autograd.Function; None for an op without gradients.
        num_autocast: how many leading arguments autocast casts to its dtype; the others stay as they are.

    Returns:
        The op.
    """
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lckernels::{name}", fake, lib=_LIBRARY)
    op = getattr(torch.ops.lckernels, name).default
    if apply is not None:
        _register_autograd(name, op, apply)
    _register_autocast(name, op, num_autocast)
    return op


def _requires_grad(args: tuple | list) -> bool:
    for x in args:
        if x is None:
            continue
        if isinstance(x, Tensor):
            if x.requires_grad:
                return True
        elif isinstance(x, list | tuple) and _requires_grad(x):
            return True
    return False


def _register_autograd(name: str, op: Callable, apply: Callable) -> None:
    """An autograd.Function under the Autograd key: a tenth of the host time of torch.library's wrapper."""

    def with_autograd(*args: Any) -> Any:
        # In forward mode the Function raises, since it has no jvp; below autograd a tangent would be lost.
        if forward_ad._current_level >= 0 or (torch.is_grad_enabled() and _requires_grad(args)):
            if torch._C._are_functorch_transforms_active():
                raise NotImplementedError(_NO_TRANSFORMS.format(name))
            return apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    _LIBRARY.impl(name, with_autograd, "Autograd")


def _register_autocast(name: str, op: Callable, num_autocast: int) -> None:
    """Casts the first num_autocast arguments except fp64; autocast is disabled within the op."""
    for device in ("cpu", "cuda"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
        keys = torch._C.DispatchKeySet(key)

        def cast(*args: Any, device: str = device, keys: Any = keys) -> Any:
            dtype = torch.get_autocast_dtype(device)
            inputs = (
                x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in args[:num_autocast]
            )
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*inputs, *args[num_autocast:])

        _LIBRARY.impl(name, cast, key.name)
