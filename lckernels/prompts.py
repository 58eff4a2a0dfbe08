"""What PEFT's prompt learning adds to each row of a model."""

from typing import Any

from torch import nn

# These put keys before those of the tokens, in each layer; all other types put states before the tokens'.
_PREFIX_TYPES = ("PREFIX_TUNING", "CARTRIDGE")


def num_prefix_keys(model: nn.Module) -> int:
    """Keys that PEFT's prefix tuning puts before those of each row; they take as many positions."""
    config = _active_config(model)
    kind = getattr(config, "peft_type", None)
    return config.num_virtual_tokens if getattr(kind, "value", kind) in _PREFIX_TYPES else 0


def num_virtual_tokens(model: nn.Module) -> int:
    """Positions that prompt learning of any type takes before each row; 0 for any other model."""
    config = _active_config(model)
    return config.num_virtual_tokens if getattr(config, "is_prompt_learning", False) else 0


def _active_config(model: nn.Module) -> Any:
    """The config of PEFT's active adapter; None without one."""
    try:
        return getattr(model, "active_peft_config", None)
    except (KeyError, TypeError):  # several adapters are active; none of them is of prompt learning
        return None
