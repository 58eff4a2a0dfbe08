"""Kernels that let Hugging Face models read long texts."""

from importlib import import_module
from typing import Any

from lckernels.backends.registry import BackendError
from lckernels.functional import (
    chunked_attention,
    merge_attention_states,
    overlap_merge,
    overlap_split,
    windowed_attention,
)
from lckernels.options import ExtraTokens, Layout, Score
from lckernels.plan import Plan
from lckernels.planner import plan_chunks

__version__ = "0.1.0"

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
    "chunked_attention",
    "merge_attention_states",
    "overlap_merge",
    "overlap_split",
    "patch",
    "patched",
    "plan_chunks",
    "unpatch",
    "windowed_attention",
]


def __getattr__(name: str) -> Any:
    """Names that need the extra `hf` are imported at first use."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'lckernels' has no attribute {name!r}")
