"""Modules of the optional extras, imported at first use."""

from importlib import import_module
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """The module. Raises ImportError naming the extra to install when its package is missing."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        hint = f"pip install 'lckernels[{extra}]'"
        raise ImportError(f"this needs {package}, which is not installed: {hint}") from error
