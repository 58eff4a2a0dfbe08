"""The compiled library _C.so."""

from pathlib import Path

import torch

from lckernels.backends.registry import settings

_LIBRARY = Path(__file__).resolve().parents[2] / "_C.so"


def _load() -> str:
    """Loads _C.so; returns why it cannot be used, or an empty string."""
    if not _LIBRARY.exists():
        return "lckernels/_C.so was not built (installing lckernels with a C++ compiler builds it)"
    try:
        torch.ops.load_library(_LIBRARY)
    except OSError as error:
        return f"{_LIBRARY.name} does not load: {str(error).splitlines()[0]}"
    isa = settings().get("isa")
    if isa is not None:
        torch.ops.lckernels_cpu.set_isa(isa)
    return ""


UNAVAILABLE = _load()
