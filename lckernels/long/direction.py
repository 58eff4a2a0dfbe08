"""Whether a token's state depends on later tokens: a model whose attention is causal is no encoder."""

from torch import nn


def check_direction(model: nn.Module, sees_later: bool | None = None) -> None:
    """Raises TypeError for a model marked as causal, unless a trial run, or its config, shows otherwise.

    Args:
        model: the model.
        sees_later: what a trial run found; None without one.
    """
    if sees_later is None:
        sees_later = getattr(model.config, "is_causal", True) is False
    if is_marked_causal(model) and not sees_later:
        name = type(model).__name__
        raise TypeError(f"model: got {name}, a decoder, with causal attention; expected an encoder")


def is_marked_causal(model: nn.Module) -> bool:
    """Whether an attribute of a module, or the config, marks attention as causal; a mask may override it."""
    causal = any(getattr(module, "is_causal", False) is True for module in model.modules())
    return causal or bool(getattr(model.config, "is_decoder", False))
