"""The attention of a LongEncoder's calls, chosen once per length, dtype and device of an unchanged model."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from lckernels.devices import device_and_dtype, first_weight
from lckernels.hf import support
from lckernels.hf.patch.fingerprint import Fingerprint
from lckernels.hf.patch.methods import Switch
from lckernels.hf.patch.modules import lckernels_switch

_MAX_CHOICES = 1024


class Choice:
    """The attention of calls of one model, as long as the model stays the same.

    Args:
        model: a transformers model, or a module that contains one.
    """

    is_short = staticmethod(support.is_short)

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.fingerprint = Fingerprint(model)
        self.choices: dict[tuple, bool] = {}
        self.switches: dict[int | None, Switch] = {}
        weight = first_weight(model)
        holders = ((m._parameters, name) for m in model.modules() for name in m._parameters)
        self.holder = next(((held, name) for held, name in holders if held[name] is weight), None)

    def holds(self, model: nn.Module) -> bool:
        """Whether this is the choice for the model as it is now."""
        if model is not self.model or not self.fingerprint.matches(model):
            return False
        return all(switch.is_current() for switch in self.switches.values())

    def context(self, attention: str, seqlen: int, piece_tokens: int | None) -> AbstractContextManager[None]:
        """The context of a call with rows of `seqlen` tokens; arguments as of `AttentionContexts.of`."""
        key = (attention, seqlen, *self._device_and_dtype())
        lckernels = self.choices.get(key)
        if lckernels is None:
            if len(self.choices) >= _MAX_CHOICES:
                self.choices.clear()
            lckernels = self.choices[key] = not support.own_attention_reasons(self.model, attention, seqlen)
        if not lckernels:
            return nullcontext()
        switch = self.switches.get(piece_tokens)
        if switch is None:
            switch = self.switches[piece_tokens] = lckernels_switch(self.model, piece_tokens)
        return switch.active()

    def _device_and_dtype(self) -> tuple[str, torch.dtype] | tuple[()]:
        parameter: Tensor | None = None if self.holder is None else self.holder[0].get(self.holder[1])
        return () if parameter is None else device_and_dtype(self.model, parameter)
