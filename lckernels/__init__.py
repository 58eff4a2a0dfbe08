"""Fused attention and overlap-merge kernels for Hugging Face models on long sequences."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lckernels.version import __version__ as __version__

if TYPE_CHECKING:
    from lckernels.hf.patch import patch, patched, unpatch
    from lckernels.hf.quantize import quantize, quantized, unquantize
    from lckernels.long.encoder import LongEncoder
    from lckernels.long.lengthen import lengthen, lengthened, unlengthen

# Imported at first use, since they require the extra `hf`; type checkers read the imports above.
_LAZY = {
    "LongEncoder": "lckernels.long.encoder",
    "lengthen": "lckernels.long.lengthen",
    "lengthened": "lckernels.long.lengthen",
    "patch": "lckernels.hf.patch",
    "patched": "lckernels.hf.patch",
    "quantize": "lckernels.hf.quantize",
    "quantized": "lckernels.hf.quantize",
    "unlengthen": "lckernels.long.lengthen",
    "unpatch": "lckernels.hf.patch",
    "unquantize": "lckernels.hf.quantize",
}
# Modules of the other public names, which require torch alone.
_EAGER = (
    "lckernels.functional",
    "lckernels.backends.registry",
    "lckernels.options",
    "lckernels.plan",
    "lckernels.planner",
)
# `lckernels` and `python -m lckernels.cli` read their arguments before torch is imported.
_SCRIPT = Path(*getattr(sys, "argv", [])[:1]).name
_IS_COMMAND = _SCRIPT == "lckernels" or (_SCRIPT == "-m" and "lckernels.cli" in sys.orig_argv)

__all__ = [
    "BackendError",
    "ExtraTokens",
    "Layout",
    "LongEncoder",
    "Plan",
    "Score",
    "lengthen",
    "lengthened",
    "patch",
    "patched",
    "plan_chunks",
    "quantize",
    "quantized",
    "unlengthen",
    "unpatch",
    "unquantize",
]
if not _IS_COMMAND:
    from lckernels import functional
    from lckernels.backends.registry import BackendError
    from lckernels.functional import *  # noqa: F403, the names of functional.__all__
    from lckernels.options import ExtraTokens, Layout, Score
    from lckernels.plan import Plan
    from lckernels.planner import plan_chunks

    __all__ += functional.__all__


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if _IS_COMMAND and not name.startswith("_") and find_spec(f"lckernels.{name}") is None:
        for module in map(import_module, _EAGER):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'lckernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
