"""Fused attention and overlap-merge kernels for Hugging Face models on long sequences."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lckernels import functional
from lckernels.backends.registry import BackendError
from lckernels.functional import *  # noqa: F403, the names of functional.__all__
from lckernels.options import ExtraTokens, Layout, Score
from lckernels.plan import Plan
from lckernels.planner import plan_chunks

if TYPE_CHECKING:
    from lckernels.hf.patch import patch, patched, unpatch
    from lckernels.long.encoder import LongEncoder

__version__ = "0.1.0"

# Imported at first use, since they require the extra `hf`; type checkers read the imports above.
_LAZY = {
    "LongEncoder": "lckernels.long.encoder",
    "patch": "lckernels.hf.patch",
    "patched": "lckernels.hf.patch",
    "unpatch": "lckernels.hf.patch",
}

__all__ = [
    "BackendError",
    "ExtraTokens",
    "Layout",
    "LongEncoder",
    "Plan",
    "Score",
    "patch",
    "patched",
    "plan_chunks",
    "unpatch",
]
__all__ += functional.__all__


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lckernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
