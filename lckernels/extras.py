"""Modules of optional extras, imported at first use."""

from importlib import import_module
from types import ModuleType


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module that an extra installs.

    Args:
        module: name of the module.
        extra: name of the extra of lckernels, for the error.

    Raises:
        ImportError: the module's package is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        hint = f"pip install 'lckernels[{extra}]'"
        raise ImportError(f"this needs {package}, which is not installed: {hint}") from error
