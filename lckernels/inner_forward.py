"""A forward of a module's instance around its own: `lengthen` installs it, `patch` changes the inner one."""

from collections.abc import Callable
from typing import Any

from torch import nn

INNER = "_lckernels_inner_forward"  # attribute of such a module: the forward that it had


def wrap_forward(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Installs `forward`; the module's own is its attribute INNER from now on."""
    inner = module.forward
    if hasattr(inner, "move"):  # of `patch`
        inner.move(INNER)
    module.__dict__[INNER] = inner
    module.__dict__["forward"] = forward


def unwrap_forward(module: nn.Module) -> None:
    """Undoes `wrap_forward`."""
    inner = module.__dict__.pop(INNER)
    if getattr(inner, "__func__", None) is type(module).forward:
        del module.__dict__["forward"]
        return
    if hasattr(inner, "move"):
        inner.move("forward")
    module.__dict__["forward"] = inner  # of the instance, as `patch` and accelerate set it
