"""Switch Transformers: its encoder computes the numbers of its mask itself; experts depend on the tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from lckernels.hf.family import Family, own_method
from lckernels.hf.masks.create import mask_of_keys


def _attention(module: nn.Module, hidden_states: Tensor, mask: Tensor | None = None, **options: Any) -> Any:
    """The encoder's self-attention; its mask, (batch, 1, 1, seqlen), has 0 where a key is valid."""
    if mask is not None and mask.shape[1:3] == (1, 1) and mask.is_floating_point():
        mask = mask_of_keys(mask[:, 0, 0] == 0, hidden_states.shape[1])
    return own_method(module, "forward", _attention)(module, hidden_states, mask, **options)


def _experts(module: nn.Module, hidden_states: Tensor, *routed: Tensor) -> Tensor:
    """The experts; tokens without values, as in a dry run, are routed to none."""
    if hidden_states.is_meta:
        return torch.empty_like(hidden_states)
    return own_method(module, "forward", _experts)(module, hidden_states, *routed)


def _replacements(module: nn.Module) -> dict[str, Any]:
    if hasattr(module, "compute_bias") and not module.is_decoder:
        return {"forward": _attention}
    return {"forward": _experts} if isinstance(module, nn.ModuleDict) else {}


FAMILY = Family(name="switch_transformers", replacements=_replacements)
