"""Whether a model is an encoder without a task head."""

import inspect
import sys
from collections.abc import Callable
from threading import RLock
from typing import Any

import torch
from torch import nn

from lckernels.checks import bad
from lckernels.long.checkpoints import has_head
from lckernels.long.chunking import Rows
from lckernels.long.trial import Trial, try_copy, try_in_place

_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
INPUTS = ("input_ids", "inputs_embeds")
_changing = RLock()  # held in a call that changes the model itself, until that is undone


def check_encoder(model: nn.Module) -> Trial | None:
    """Checks that the model is an encoder of token ids or embeddings, without a task head.

    Returns:
        What a trial run of the model found; None where it cannot run yet, as in `try_copy`.

    Raises:
        TypeError: it is no such encoder, or does not return one state per token.
    """
    name = type(model).__name__
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or config is None:
        raise TypeError(f"model: got {name}; expected an encoder of transformers, as AutoModel loads it")
    if getattr(config, "is_encoder_decoder", False) and getattr(model, "decoder", None) is not None:
        raise TypeError(f"model: got {name}, encoder and decoder; pass its encoder, model.get_encoder()")
    base = getattr(type(model), "base_model_prefix", "")
    if base and has_head(name) and isinstance(getattr(model, base, None), nn.Module):
        check_direction(model, None)
        raise TypeError(f"model: got {name}, a model with a task head; pass its encoder, model.{base}")
    main_input = _main_input(model)
    if main_input not in INPUTS:
        expected = f"expected an encoder whose input is {' or '.join(INPUTS)}"
        raise TypeError(f"model: got {name}, whose input is {main_input}; {expected}")
    trial = _known_rows(model) or try_copy(model, is_marked_causal(model))
    check_direction(model, trial)
    return trial


def _main_input(model: nn.Module) -> str:
    """The name of the model's input: its first required argument if it takes none of INPUTS."""
    parameters = inspect.signature(model.forward).parameters
    if not any(name in parameters for name in INPUTS):
        required = (p.name for p in parameters.values() if p.default is p.empty and p.kind is _POSITIONAL)
        return next(required, getattr(model, "main_input_name", INPUTS[0]))
    return getattr(model, "main_input_name", INPUTS[0])


def _known_rows(model: nn.Module) -> Trial | None:
    """What a family of the model states about rows; None if none does."""
    if not is_transformers_model(model):
        return None
    from lckernels.hf.family import fixed_rows, row_reasons

    equal, single = row_reasons(model)
    row_tokens, fixed = fixed_rows(model) or (None, "")
    if single:
        return Trial(Rows.ALONE, single, row_tokens=row_tokens)
    reason = fixed or equal
    return Trial(Rows.EQUAL, reason, row_tokens=row_tokens) if reason else None


def unchanged_by_calls(model: nn.Module) -> Callable[..., Any]:
    """Calls the model, then undoes what the call changed in the model itself, where a family has that.

    Threads call such a model one after the other.
    """
    if not is_transformers_model(model):
        return model
    from lckernels.hf.family import changes_undone, is_changed_by_calls

    if not is_changed_by_calls(model):
        return model

    def call(**inputs: Any) -> Any:
        with _changing:
            changes = changes_undone(model)
            try:
                return model(**inputs)
            finally:
                for undo in changes:
                    undo()

    return call


def try_at_call(model: nn.Module, device: torch.device) -> Trial | None:
    """A trial run at the first call, of a model for which `check_encoder` returned None; errors as there."""
    trial = try_in_place(model, device, is_marked_causal(model))
    check_direction(model, trial)
    return trial


def check_direction(model: nn.Module, trial: Trial | None) -> None:
    """Raises TypeError for a model marked as causal, unless a trial run, or its config, shows otherwise."""
    sees_later = getattr(model.config, "is_causal", True) is False
    if trial is not None and trial.sees_later is not None:
        sees_later = trial.sees_later
    if is_marked_causal(model) and not sees_later:
        name = type(model).__name__
        raise TypeError(f"model: got {name}, a decoder, with causal attention; expected an encoder")


def check_row_length(model: nn.Module, trial: Trial | None, widths: list[int]) -> None:
    """Raises ValueError for chunks of another length than the only one that the model supports."""
    only = None if trial is None else trial.row_tokens
    other = next((width for width in widths if only not in (None, width)), None)
    if other is not None:
        name = type(model).__name__
        raise bad("input_ids", f"a chunk of {other} tokens", f"{name} supports rows of {only} tokens only")


def is_marked_causal(model: nn.Module) -> bool:
    """Whether an attribute of a module, or the config, marks attention as causal; a mask may override it."""
    causal = any(getattr(module, "is_causal", False) is True for module in model.modules())
    return causal or bool(getattr(model.config, "is_decoder", False))


def is_transformers_model(model: nn.Module) -> bool:
    """Whether a module of the model is a transformers model; does not import transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and any(
        isinstance(module, transformers.PreTrainedModel) for module in model.modules()
    )
