"""Whether a module's forward may read the module's configs: only then it must run on a view."""

import dis
from collections.abc import Iterable, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_ATTRIBUTE_OPS = ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "DELETE_ATTR")


def reads_configs(module: nn.Module, configs: Iterable[str]) -> bool:
    """Whether the module's forward may read the attributes `configs`, itself or through other methods."""
    names = tuple(configs)
    return bool(names) and ("forward" in module.__dict__ or _may_read(type(module), names))


@cache
def _may_read(cls: type[nn.Module], names: tuple[str, ...]) -> bool:
    """Whether a method besides __init__ names one of the attributes, or may hand on the module.

    True for what cannot be read: a callable that is no function.
    """
    own = [vars(base) for base in cls.__mro__ if base not in nn.Module.__mro__]
    methods = [x for attributes in own for name, x in attributes.items() if name != "__init__"]
    return any(_method_reads(x, names) for x in methods if callable(x) or isinstance(x, property))


def _method_reads(method: Any, names: tuple[str, ...]) -> bool:
    parts = [method.fget, method.fset, method.fdel] if isinstance(method, property) else [method]
    for part in filter(None, parts):
        while part is not None:  # a decorated function, then what it wraps
            if not isinstance(part, FunctionType) or any(
                _code_reads(x, names) for x in _codes(part.__code__)
            ):
                return True
            part = getattr(part, "__wrapped__", None)
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code and those of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _code_reads(code: CodeType, names: tuple[str, ...]) -> bool:
    named = {*code.co_names, *(x for x in code.co_consts if isinstance(x, str))}
    return not named.isdisjoint(names) or _hands_on_self(code)


def _hands_on_self(code: CodeType) -> bool:
    previous = None
    for instruction in dis.get_instructions(code):
        if previous == "self" and instruction.opname not in _ATTRIBUTE_OPS:
            return True
        loads = instruction.opname.startswith("LOAD_")
        previous = instruction.argval if loads and isinstance(instruction.argval, str) else None
    return previous == "self"
