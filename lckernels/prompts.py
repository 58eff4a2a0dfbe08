"""What PEFT's prompt learning adds to each row of a model."""

import inspect
import sys
from typing import Any

from torch import Tensor, nn

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
