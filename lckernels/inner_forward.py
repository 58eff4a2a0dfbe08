"""A forward of a module's instance around its own: `lengthen` installs it, `patch` changes the inner one."""

import copy
import inspect
from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

from torch import nn

from lckernels.checks import bad
from lckernels.instance_attributes import Replication

INNER = "_lckernels_inner_forward"  # attribute of such a module: the forward that it had


class OuterForward:
    """A forward that `wrap_forward` installs in a module's instance; a copy belongs to the module's copy.

    Attributes:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __getstate__(self) -> dict[str, Any]:
        return {name: x for name, x in self.__dict__.items() if name != "__signature__"}

    def of_replica(self, replica: nn.Module) -> Self:
        """The forward for a replica of the module by DataParallel."""
        copied = copy.copy(self)
        copied.module = replica
        return copied

    @property
    def inner(self) -> Callable[..., Any]:
        """The forward that the module had."""
        return self.module.__dict__[INNER]

    @property
    def __code__(self) -> Any:  # torch.export reads its place in a file
        return self.inner.__code__

    @cached_property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.inner)


def wrap_forward(module: nn.Module, forward: OuterForward) -> None:
    """Installs `forward`; the module's own is its attribute INNER from now on."""
    inner = module.forward
    if hasattr(inner, "move"):  # of `patch`
        inner.move(INNER)
    module.__dict__[INNER] = inner
    module.__dict__["forward"] = forward
    Replication(module).install()


def outer_forward(module: nn.Module, kind: type[OuterForward]) -> tuple[str, Any]:
    """Where the module stores the forward that `wrap_forward` installed, and that forward.

    Args:
        module: after `wrap_forward`.
        kind: of the forward.

    Raises:
        ValueError: another library has replaced it, and stores it elsewhere.
    """
    for name in ("forward", "_old_forward"):  # the second where accelerate's hooks replace the first
        found = module.__dict__.get(name)
        if isinstance(found, kind):
            return name, found
    got = f"{type(module).__name__}, whose forward was replaced after lckernels.lengthen"
    raise bad("model", got, "undo that first: lckernels.unlengthen restores its own change alone")


def unwrap_forward(module: nn.Module, kind: type[OuterForward]) -> None:
    """Undoes `wrap_forward` with a forward of this kind; raises as `outer_forward`."""
    name, _ = outer_forward(module, kind)
    inner = module.__dict__.pop(INNER)
    replication = module.__dict__.get(Replication.NAME)
    if type(replication) is Replication:
        replication.release()
    if name == "forward" and getattr(inner, "__func__", None) is type(module).forward:
        del module.__dict__["forward"]
        return
    if hasattr(inner, "move"):
        inner.move(name)
    module.__dict__[name] = inner  # of the instance, as `patch` and accelerate set it
