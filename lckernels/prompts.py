"""What PEFT's prompt learning adds to each row of a model."""

import inspect
import sys
from typing import Any

from torch import Tensor, nn

# These put keys before those of the tokens, in each layer; all other types put states before the tokens'.
_PREFIX_TYPES = ("PREFIX_TUNING", "CARTRIDGE")
# What a forward of transformers calls keys before those of its rows; the second is the older name.
KEY_ARGUMENTS = ("cache", "past_key_values")


def num_prefix_keys(model: nn.Module) -> int:
    """Keys that PEFT's prefix tuning puts before those of each row; they take as many positions."""
    config = _active_config(model)
    kind = getattr(config, "peft_type", None)
    return config.num_virtual_tokens if getattr(kind, "value", kind) in _PREFIX_TYPES else 0


def unread_prefix_keys(model: nn.Module) -> str:
    """That a model in PEFT does not read the keys of its prefix tuning, in words; empty if it may read them.

    So it is where no forward in it names keys: PEFT passes them, and a forward without a KV cache drops them.
    """
    for module in model.modules():
        keys = num_prefix_keys(module) if hasattr(type(module), "active_peft_config") else 0
        inner = module.get_base_model() if keys else None
        if inner is not None and not any(map(_takes_keys, inner.modules())):
            return not_read(type(inner).__name__, keys)
    return ""


def not_read(name: str, keys: int) -> str:
    """That a model of this class does not read keys of prefix tuning, in words."""
    return (
        f"{name} with prefix tuning, whose {keys} virtual tokens it does not read: "
        "its states are the same without them, and no gradient reaches them"
    )


def _takes_keys(module: nn.Module) -> bool:
    """Whether a model of transformers has a forward that takes keys."""
    if not hasattr(type(module), "base_model_prefix"):
        return False
    return any(name in inspect.signature(type(module).forward).parameters for name in KEY_ARGUMENTS)


def num_virtual_tokens(model: nn.Module) -> int:
    """Positions that prompt learning of any type takes before each row; 0 for any other model."""
    config = _active_config(model)
    return config.num_virtual_tokens if getattr(config, "is_prompt_learning", False) else 0


def prompt_of_call() -> tuple[int, Tensor | None]:
    """The virtual tokens before each row of embeddings of the model that is being called, and the rows' ids.

    PEFT's model calls the model within with embeddings alone, so the calling functions are searched for it.

    Returns:
        How many virtual tokens; 0 outside of a call of PEFT's prompt tuning. The ids (batch, seqlen) that
        PEFT's model was called with, without virtual tokens; None if they are not known.
    """
    frame = inspect.currentframe() if "peft" in sys.modules else None
    while frame is not None:
        in_peft = str(frame.f_globals.get("__name__")).partition(".")[0] == "peft"
        if in_peft and any(name in frame.f_code.co_name for name in ("forward", "generate")):
            values = frame.f_locals
            model = values.get("self")
            count = num_virtual_tokens(model) if isinstance(model, nn.Module) else 0
            if count:
                ids = values.get("input_ids")
                return count, ids if isinstance(ids, Tensor) else None
        frame = frame.f_back
    return 0, None


def _active_config(model: nn.Module) -> Any:
    """The config of PEFT's active adapter; None without one."""
    try:
        return getattr(model, "active_peft_config", None)
    except (KeyError, TypeError):  # several adapters are active; none of them is of prompt learning
        return None
