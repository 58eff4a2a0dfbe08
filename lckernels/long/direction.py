"""Whether a token's state depends on later tokens: a model whose attention is causal is no encoder."""

from torch import nn


def check_direction(model: nn.Module, sees_later: bool | None = None) -> None:
    """Raises TypeError for a model that a trial run, or else an attribute, shows to be causal.

    The text part of a model of images and texts, as of CLIP, is an encoder though its mask is causal.

    Args:
        model: the model.
        sees_later: what a trial run found; None without a run, or if it could not judge.
    """
    marked = is_marked_causal(model)
    if sees_later is None:
        causal = marked and getattr(model.config, "is_causal", True) is not False
    else:
        causal = not sees_later and (marked or not _is_text_part(model))
    if causal:
        how = "with causal attention" if marked else "whose states do not depend on later tokens"
        hint = "a decoder reads long input with lckernels.patch(model, window=...)"
        raise TypeError(f"model: got {type(model).__name__}, a decoder, {how}; expected an encoder; {hint}")


def is_marked_causal(model: nn.Module) -> bool:
    """Whether an attribute of a module, or the config, marks attention as causal; a mask may override it."""
    causal = any(getattr(module, "is_causal", False) is True for module in model.modules())
    return causal or bool(getattr(model.config, "is_decoder", False))


def _is_text_part(model: nn.Module) -> bool:
    """Whether the config is that of texts within one of images and texts."""
    return getattr(model.config, "base_config_key", "") == "text_config"
