"""Where a model computes."""

import torch
from torch import Tensor, nn


def execution_device(model: nn.Module, weight: Tensor) -> torch.device:
    """The device of a weight; if accelerate has offloaded it, the device that it is copied to.

    Args:
        model: the module with the weight.
        weight: a parameter or buffer.
    """
    if weight.device.type != "meta":
        return weight.device
    hooks = (module.__dict__.get("_hf_hook") for module in model.modules())
    parts = (part for hook in hooks if hook is not None for part in getattr(hook, "hooks", (hook,)))
    places = (getattr(part, "execution_device", None) for part in parts)
    return next((torch.device(place) for place in places if place is not None), weight.device)
