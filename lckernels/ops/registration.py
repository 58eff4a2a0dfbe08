"""How a public torch op is registered: schema, kernel, fake, autograd and autocast, each in one call."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("lckernels", "DEF")


def register(name: str, schema: str, kernel: Callable, fake: Callable) -> Callable:
    """Defines lckernels::name with one kernel for all devices; returns the op."""
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"lckernels::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.lckernels, name).default


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


def register_autograd(name: str, apply: Callable) -> None:
    """An autograd.Function's apply under the Autograd key: a tenth of register_autograd's host time."""
    op = getattr(torch.ops.lckernels, name).default

    def with_autograd(*args: Any) -> Any:
        # In forward mode the Function raises, since it has no jvp; below autograd a tangent would be lost.
        if forward_ad._current_level >= 0:
            return apply(*args)
        if torch.is_grad_enabled() and _requires_grad(args):
            return apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    _LIBRARY.impl(name, with_autograd, "Autograd")


def register_autocast(name: str, num_cast: int) -> None:
    """The first num_cast arguments go to the autocast dtype; everything else, and what runs inside, stays."""
    op = getattr(torch.ops.lckernels, name).default
    for device in ("cpu", "cuda"):
        key = getattr(torch._C.DispatchKey, f"Autocast{device.upper()}")
        keys = torch._C.DispatchKeySet(key)

        def cast(*args: Any, device: str = device, keys: Any = keys) -> Any:
            dtype = torch.get_autocast_dtype(device)
            inputs = (x if x is None or x.dtype == torch.float64 else x.to(dtype) for x in args[:num_cast])
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*inputs, *args[num_cast:])

        _LIBRARY.impl(name, cast, key.name)
