"""The decoder of an encoder-decoder: where it is, what it reads, and its forward where states have joints."""

import inspect
from typing import Any

from torch import Tensor, nn

from lckernels.inner_forward import OuterForward
from lckernels.long.checkpoints import has_head
from lckernels.long.joints import Joints
from lckernels.long.positions import usable_positions

STATES, MASK = "encoder_hidden_states", "encoder_attention_mask"  # its arguments for what an encoder returns


def find_decoder(model: nn.Module) -> nn.Module | None:
    """The decoder that reads the states of an encoder within a model of transformers; None without one."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return None
    encoder, decoder = model.get_encoder(), model.get_decoder()
    own = {id(module) for module in (model, encoder)}
    if encoder in (None, model) or not isinstance(decoder, nn.Module) or id(decoder) in own:
        return None
    return decoder if STATES in inspect.signature(decoder.forward).parameters else None


def check_decoder(model: nn.Module, decoder: nn.Module | None) -> None:
    """Raises TypeError for a decoder with a limit of positions that reads the encoder's tokens.

    Those of classifiers and of models for questions do; those that generate read tokens of their own.
    """
    name = type(model).__name__
    if decoder is None or not has_head(name) or name.endswith("ForConditionalGeneration"):
        return
    limit = usable_positions(decoder)
    if limit is not None:
        got = f"{name}, whose decoder reads each row too, and has {limit[0]:,} positions"
        raise TypeError(f"model: got {got}; expected a model that generates, or an encoder with a head")


class DecoderForward(OuterForward):
    """The forward of a decoder's instance that adds the joints to the mask of the encoder's states.

    Attributes:
        joints: of the encoder's states.
    """

    def __init__(self, decoder: nn.Module, joints: Joints) -> None:
        super().__init__(decoder)
        self.joints = joints

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        names = list(self.__signature__.parameters)[: len(args)]
        kwargs = {**dict(zip(names, args, strict=True)), **kwargs}
        states, mask = kwargs.get(STATES), kwargs.get(MASK)
        if isinstance(states, Tensor) and isinstance(mask, Tensor) and mask.shape[-1] < states.shape[1]:
            kwargs[MASK] = self.joints.mask(mask, states.shape[1])
        return self.inner(**kwargs)
