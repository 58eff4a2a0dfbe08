"""Methods of modules that run on the module's view, where a patch or the thread's context requires it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Signature, signature
from types import CodeType, MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from lckernels.hf.patch.views import module_view
from lckernels.inner_forward import INNER
from lckernels.instance_attributes import Absent, Installed

PATCHED = "_lckernels_patch"  # attribute of a patched module
# Where `lengthen` and accelerate store the method of a module whose forward they replace.
FORWARDS = ("forward", INNER, "_old_forward")
lock = threading.RLock()  # held while modules are changed or copied


class InstalledMethod(Installed):
    """A method of a patched module's instance, which has the signature and the code of the one before."""

    @property
    def __signature__(self) -> Signature:
        return signature(self.original)

    @property
    def __code__(self) -> CodeType:  # torch.export reads its place in a file
        return self.original.__code__

    def __reduce__(self) -> tuple:
        """A copy belongs to the module's copy; of a module that is not patched it is the method before."""
        if PATCHED not in self.module.__dict__:
            return (getattr, (self.module, self.name)) if self.own is Absent else (_same, (self.own,))
        return self._copied()

    def _copied(self) -> tuple:
        """The method of a copy of the module, as `__reduce__` returns it."""
        raise NotImplementedError


class Method(InstalledMethod):
    """A method that runs on its module's view: that of the thread's switch, else that of a patch.

    Without either it is the module's own method.

    Attributes:
        configs: the attributes of the module that are configs.
        functions: functions (module, ...) that replace methods of the module on the view, by name.
        view: the module's view while it is patched.
        switched: the views of the switches whose contexts some thread is in, in the order of entry.
        traced: the last of them or None, for torch.compile, which cannot trace the state of a thread.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        own: Any,
        uses: int,
        configs: dict[str, PreTrainedConfig],
        functions: dict[str, Callable],
    ) -> None:
        super().__init__(module, name, own, uses)
        self.configs, self.functions = configs, functions
        self.view = module_view(module, configs, functions)
        self.switched: list[nn.Module] = []
        self.traced: nn.Module | None = None
        self.on_class = self._name_on_class()

    def _name_on_class(self) -> str:
        """The name under which the view's class has the method; empty where it has not."""
        stored = self.name in FORWARDS[1:]
        if stored and "forward" in self.functions:
            return "forward"
        return "" if self.own is not Absent else self.name

    def move(self, name: str) -> None:
        """Takes another name: the module stores the method elsewhere from now on."""
        own = self.original
        of_class = getattr(own, "__func__", None) is getattr(type(self.module), name, self)
        self.name, self.own = name, Absent if of_class else own
        self.on_class = self._name_on_class()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            view = self.traced
        else:
            view = switched_view(self.module) if _thread.switches else None
        if view is None and PATCHED in self.module.__dict__:
            view = self.view
        if view is None:
            return self.original(*args, **kwargs)
        if self.on_class:
            return getattr(type(view), self.on_class)(view, *args, **kwargs)
        return self.own.__func__(view, *args, **kwargs)

    def _copied(self) -> tuple:
        return Method, (self.module, self.name, self.own, 1, self.configs, self.functions)

    def of_replica(self, replica: nn.Module) -> "Method":
        """The method for a replica of the module by DataParallel."""
        own = self.own if self.own is Absent else MethodType(self.own.__func__, replica)
        return Method(replica, self.name, own, 1, self.configs, self.functions)


class Switch:
    """What runs some modules on their views, in the threads that are in its context.

    Attributes:
        views: the views of modules.
        installed: attributes of modules that are there during the context.
    """

    def __init__(self, views: dict[nn.Module, nn.Module], installed: list[Installed]) -> None:
        self.views, self.installed = views, installed

    def is_current(self) -> bool:
        """Whether the modules' own methods are those that `installed` replaces."""
        values = ((x, x.module.__dict__.get(x.name, Absent)) for x in self.installed)
        return all(value is x.own or type(value) is type(x) for x, value in values)

    @contextmanager
    def active(self) -> Iterator[None]:
        """The context; several threads may be in it, and a thread several times."""
        with lock:
            used = [attribute.install() for attribute in self.installed]
            for method, view in self._traced(used):
                method.switched.append(view)
                method.traced = view
        _thread.switches = (self, *_thread.switches)
        try:
            yield
        finally:
            # Contexts may end in another order than the reverse of their entry.
            place = _thread.switches.index(self)
            _thread.switches = _thread.switches[:place] + _thread.switches[place + 1 :]
            with lock:
                for method, view in self._traced(used):
                    method.switched.remove(view)
                    method.traced = method.switched[-1] if method.switched else None
                for attribute in used:
                    attribute.release()

    def _traced(self, used: list[Installed]) -> Iterator[tuple[Method, nn.Module]]:
        """The methods among the attributes, with their modules' views."""
        for attribute in used:
            if type(attribute) is Method and attribute.module in self.views:
                yield attribute, self.views[attribute.module]


class _Thread(threading.local):
    """The switches whose contexts the thread is in, the innermost first."""

    switches: tuple[Switch, ...] = ()


_thread = _Thread()


def current_switch() -> Switch | None:
    """The innermost switch whose context the thread is in."""
    return next(iter(_thread.switches), None)


def switched_view(module: nn.Module) -> nn.Module | None:
    """The module's view in the thread's context; None outside of one."""
    for switch in _thread.switches:
        view = switch.views.get(module)
        if view is not None:
            return view
    return None


def _same(x: Any) -> Any:
    """x; a copy of a method that is not patched is the copy of its own."""
    return x


def methods_of(
    module: nn.Module,
    names: list[str],
    configs: dict[str, PreTrainedConfig],
    functions: dict[str, Callable],
) -> list[Method]:
    """The methods of these names; none for one that a function of the instance replaces."""
    found = []
    for name in names:
        places = reversed(FORWARDS) if name == "forward" and name in module.__dict__ else (name,)
        for place in places:
            own = module.__dict__.get(place, Absent)
            if type(own) is Method:
                found.append(own)
                break
            if own is Absent and place != name:
                continue
            if own is Absent or (isinstance(own, MethodType) and own.__self__ is module):
                found.append(Method(module, place, own, 0, configs, functions))
                break
    return found
