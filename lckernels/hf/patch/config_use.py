"""Whether a module's forward may read the module's configs: only then it must run on a view."""

import dis
import inspect
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
    """Whether an attribute of the class besides __init__ may read one of these, or hand on the module."""
    own = [vars(base) for base in cls.__mro__ if base not in nn.Module.__mro__]
    found = [x for attributes in own for name, x in attributes.items() if name != "__init__"]
    return not all(_is_known(x, names) for x in found)


def _is_known(attribute: Any, names: tuple[str, ...]) -> bool:
    """Whether an attribute of a class is data, or functions that read none of the names."""
    if isinstance(attribute, property):
        parts = filter(None, (attribute.fget, attribute.fset, attribute.fdel))
        return all(_is_known(part, names) for part in parts)
    if isinstance(attribute, staticmethod | classmethod):
        attribute = attribute.__func__
    if not isinstance(attribute, FunctionType):
        return not callable(attribute) and not hasattr(type(attribute), "__get__")
    wrapped = getattr(attribute, "__wrapped__", None)
    if wrapped is not None and not _is_known(wrapped, names):
        return False
    return not any(_code_reads(code, names) for code in _codes(attribute.__code__))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code and those of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _code_reads(code: CodeType, names: tuple[str, ...]) -> bool:
    named = {*code.co_names, *(x for x in code.co_consts if isinstance(x, str))}
    return not named.isdisjoint(names) or _hands_on(code)


def _hands_on(code: CodeType) -> bool:
    """Whether the first argument, or one of an outer function, is used other than before a dot."""
    if code.co_flags & inspect.CO_VARARGS and not code.co_argcount:
        return True
    modules = {*code.co_varnames[: min(code.co_argcount, 1)], *code.co_freevars}
    loaded = False
    for instruction in dis.get_instructions(code):
        if loaded and instruction.opname not in _ATTRIBUTE_OPS:
            return True
        # Some instructions of Python 3.13 load two variables.
        variables = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        loads = [instruction.opname.startswith("LOAD_") and x in modules for x in variables]
        if "STORE_FAST_LOAD_FAST" in instruction.opname:
            loads = [x in modules for x in variables[1:]]
        if any(loads[:-1]):
            return True
        loaded = bool(loads) and loads[-1]
    return loaded
