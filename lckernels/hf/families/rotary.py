"""Decoders that rotate queries and keys by the function apply_rotary_pos_emb of their modeling file."""

import sys
from collections.abc import Callable

from torch import nn

from lckernels.hf.family import Family

_ARCHITECTURES = (
    "llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3", "gpt_neox",
    "phi", "phi3", "olmo", "olmo2", "olmo3", "starcoder2", "stablelm", "granite",
)  # fmt: skip
_MODULES = {f"transformers.models.{name}.modeling_{name}" for name in _ARCHITECTURES}


def _rotation(module: nn.Module) -> Callable | None:
    # SmolLM3 has layers without positions.
    own = sys.modules[type(module).__module__]
    return own.apply_rotary_pos_emb if getattr(module, "use_rope", True) else None


FAMILY = Family(
    name="rotary",
    matches=lambda cls: cls.__module__ in _MODULES and "Attention" in cls.__name__,
    rotation=_rotation,
)
