"""Whether a model is an encoder without a task head; what is known of it at construction."""

import inspect
import sys

from torch import nn

from lckernels.long.checkpoints import has_head
from lckernels.long.chunking import Rows
from lckernels.long.direction import check_direction
from lckernels.long.trial import Trial, try_copy

_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
INPUTS = ("input_ids", "inputs_embeds")


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
        check_direction(model)
        raise TypeError(f"model: got {name}, a model with a task head; pass its encoder, model.{base}")
    main_input = _main_input(model)
    if main_input not in INPUTS:
        expected = f"expected an encoder whose input is {' or '.join(INPUTS)}"
        raise TypeError(f"model: got {name}, whose input is {main_input}; {expected}")
    trial = _known_rows(model) or try_copy(model)
    check_direction(model, trial and trial.sees_later)
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


def is_transformers_model(model: nn.Module) -> bool:
    """Whether a module of the model is a transformers model; does not import transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and any(
        isinstance(module, transformers.PreTrainedModel) for module in model.modules()
    )
