"""A model without attention: a token's result is its own value. What mixes tokens then is no attention."""

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from lckernels.hf.patch.skeleton import set_attention

_NAME = "lckernels_own_value"


def remove_attention(copied: nn.Module) -> None:
    """Replaces every call of attention in a copy of a model, whose configs are its own."""
    AttentionInterface.register(_NAME, _own_value)
    AttentionMaskInterface.register(_NAME, _no_mask)
    set_attention(copied, _NAME)


def _own_value(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, None]:
    own = value[:, :, value.shape[2] - query.shape[2] :]
    return own.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **options: Any) -> None:
    return None
