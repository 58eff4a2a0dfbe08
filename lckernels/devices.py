"""Where and in which dtype a model computes."""

import torch
from torch import Tensor, nn

from lckernels.checks import bad


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


def any_weight(model: nn.Module) -> Tensor | None:
    """The first parameter; of a replica of DataParallel, which has none, the tensor in its place."""
    held = (m.__dict__.get("_former_parameters") or m._parameters for m in model.modules())
    return next((weight for weights in held for weight in weights.values() if weight is not None), None)


def first_weight(model: nn.Module) -> Tensor | None:
    """The first floating-point parameter, one that is not on the meta device if there is one."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    return next((p for p in weights if p.device.type != "meta"), next(iter(weights), None))


def device_and_dtype(model: nn.Module, weight: Tensor) -> tuple[str, torch.dtype]:
    """Type of the device on which a layer with this weight computes, and the dtype; both as of now.

    Under autocast the dtype is autocast's, except for float64, which autocast does not change.

    Args:
        model: the module with the weight.
        weight: a floating-point parameter.
    """
    device, dtype = execution_device(model, weight).type, weight.dtype
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return device, torch.get_autocast_dtype(device) if autocast and dtype != torch.float64 else dtype


def check_device(name: str, device: torch.device | str | None) -> torch.device | str | None:
    """The argument as given. Raises ValueError if it names no device of torch."""
    if device is not None:
        try:
            torch.device(device)
        except (RuntimeError, TypeError) as error:
            expected = "expected a torch.device, or its name such as 'cpu' or 'cuda:0'"
            raise bad(name, repr(device), expected) from error
    return device
