"""What families share whose architecture has an attention with code of its own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

from lckernels.hf.interface import NAME


def attention_of(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention function of the layer's implementation: lckernels' while it is patched."""
    return AttentionInterface()[module.config._attn_implementation]


def dropout_of(module: nn.Module) -> float:
    """The probability by which the layer drops attention weights now."""
    return module.dropout if module.training else 0.0


def projected(module: nn.Module, x: Tensor, num_heads: int, *names: str) -> list[Tensor]:
    """Results of linear layers of the module, each (batch, seqlen, num_heads, head_dim)."""
    return [getattr(module, name)(x).unflatten(-1, (num_heads, -1)) for name in names]


def with_config(forward: Callable) -> dict[str, Any]:
    """Replacements of a layer that has no config, by which transformers selects an attention."""
    return {"forward": forward, "config": PreTrainedConfig(attn_implementation=NAME)}
