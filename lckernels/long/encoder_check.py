"""Whether a model is an encoder without a task head."""

import sys

from torch import nn

from lckernels.long.checkpoints import has_head


def check_encoder(model: nn.Module) -> None:
    """Raises TypeError unless the model is an encoder without a task head."""
    name = type(model).__name__
    config = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or config is None:
        raise TypeError(f"model: got {name}; expected an encoder of transformers, as AutoModel loads it")
    if getattr(config, "is_encoder_decoder", False) and getattr(model, "decoder", None) is not None:
        raise TypeError(f"model: got {name}, encoder and decoder; pass its encoder, model.get_encoder()")
    causal = any(getattr(module, "is_causal", False) is True for module in model.modules())
    if causal or getattr(config, "is_decoder", False):
        raise TypeError(f"model: got {name}, a decoder, with causal attention; expected an encoder")
    base = getattr(type(model), "base_model_prefix", "")
    if base and has_head(name) and isinstance(getattr(model, base, None), nn.Module):
        raise TypeError(f"model: got {name}, a model with a task head; pass its encoder, model.{base}")


def is_transformers_model(model: nn.Module) -> bool:
    """Whether a module of the model is a transformers model; does not import transformers."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and any(
        isinstance(module, transformers.PreTrainedModel) for module in model.modules()
    )
