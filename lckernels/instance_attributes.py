"""Attributes of a module's instance that are there while they have uses, and those of its replicas."""

from types import MethodType
from typing import Any

from torch import nn


class Absent:
    """Marks a missing attribute; a class, so that a copy is identical."""


class Installed:
    """An attribute of a module's instance that is there while it has uses.

    Attributes:
        module: the module.
        name: of the attribute.
        own: the attribute of the instance before, or Absent.
        uses: the number of contexts, patches and lengthenings that use it.
    """

    def __init__(self, module: nn.Module, name: str, own: Any, uses: int = 0) -> None:
        self.module, self.name, self.own, self.uses = module, name, own, uses

    def install(self) -> "Installed":
        """Adds a use; returns the object in use, which may have been installed before."""
        known = self.module.__dict__.get(self.name)
        used = known if type(known) is type(self) and known.module is self.module else self
        used.uses += 1
        self.module.__dict__[self.name] = used
        return used

    def release(self) -> None:
        """Removes a use; without any, the attribute is what it was before."""
        self.uses -= 1
        if self.uses == 0 and self.module.__dict__.get(self.name) is self:
            restore(self.module, self.name, self.own)

    @property
    def original(self) -> Any:
        """The attribute without lckernels, of the instance or bound from its class."""
        return getattr(type(self.module), self.name).__get__(self.module) if self.own is Absent else self.own


class Replication(Installed):
    """The method by which DataParallel copies a module: the replica gets methods of its own.

    Those are bound methods of the module, and objects that have a method `of_replica`.
    """

    NAME = "_replicate_for_data_parallel"

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, self.NAME, Absent)

    def __call__(self) -> nn.Module:
        module = self.module
        replica = getattr(type(module), self.name)(module)
        for name, value in list(module.__dict__.items()):
            if isinstance(value, MethodType) and value.__self__ is module:
                replica.__dict__[name] = MethodType(value.__func__, replica)
            elif hasattr(value, "of_replica") and value.module is module:
                replica.__dict__[name] = value.of_replica(replica)
        return replica


def restore(module: nn.Module, name: str, value: Any) -> None:
    """Sets or removes an attribute of the instance."""
    if value is Absent:
        module.__dict__.pop(name, None)
    else:
        module.__dict__[name] = value
