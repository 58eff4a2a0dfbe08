"""NLLB-MoE: its router reads the attention mask; with a bound on an expert's tokens all rows share it."""

from typing import Any

from torch import Tensor, nn

from lckernels.hf.family import Family, own_method
from lckernels.hf.masks.key_mask import KeyMask


def _single_rows(module: nn.Module) -> str:
    # At a fraction of 1, the default, an expert takes every token.
    fraction = getattr(module, "moe_eval_capacity_token_fraction", 1.0)
    return "" if fraction >= 1 else "the tokens of all rows share the capacity of an expert"


def _forward(module: nn.Module, hidden_states: Tensor, padding_mask: Tensor | None = None) -> Any:
    """The router's forward; in the mask that it expects, what is not 0 is padding."""
    if isinstance(padding_mask, KeyMask):
        padding_mask = ~padding_mask.sliced(2, -1).dense()  # it reads the row of the last query
    return own_method(module, "forward", _forward)(module, hidden_states, padding_mask)


def _replacements(module: nn.Module) -> dict[str, Any]:
    return {"forward": _forward} if hasattr(type(module), "route_tokens") else {}


FAMILY = Family(name="nllb_moe", single_rows=_single_rows, replacements=_replacements)
