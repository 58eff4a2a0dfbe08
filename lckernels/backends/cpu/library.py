"""The compiled library _C.so."""

from collections.abc import Callable
from pathlib import Path

import torch

from lckernels.backends.registry import settings
from lckernels.backends.shared.compiled_library import load_library

_LIBRARY = Path(__file__).resolve().parents[2] / "_C.so"


def _load() -> str:
    """Loads _C.so; returns why it cannot be used, or an empty string."""
    if not _LIBRARY.exists():
        return "lckernels/_C.so was not built (installing lckernels with a C++ compiler builds it)"
    return load_library(_LIBRARY, "lckernels_cpu", "window_forward") or _set_isa(settings().get("isa"))


def _set_isa(isa: str | None) -> str:
    """Sets the instruction set of LCKERNELS; returns why this processor cannot run it, or an empty string."""
    if isa is None:
        return ""
    try:
        torch.ops.lckernels_cpu.set_isa(isa)
    except RuntimeError as error:
        return f"LCKERNELS: {str(error).splitlines()[0]}"
    return ""


def unwrapped(name: str) -> Callable:
    """A private op without torch's function in Python around it, if torch shows it."""
    op = getattr(torch.ops.lckernels_cpu, name).default
    return getattr(op, "_op", op)


UNAVAILABLE = _load()
