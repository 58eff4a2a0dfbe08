"""Checks of the arguments of `patch`."""

from torch import nn
from transformers import PreTrainedModel

from lckernels.backends.registry import BACKENDS
from lckernels.checks import bad
from lckernels.hf.masks.kinds import Window
from lckernels.hf.patch.modules import is_compiled, is_patched


def check_arguments(
    model: nn.Module,
    window: int | Window | None,
    sink_tokens: int | None,
    positions: str,
    backend: str | None,
) -> None:
    """Raises TypeError or ValueError for arguments that `patch` does not support."""
    check_module(model)
    if not any(isinstance(module, PreTrainedModel) for module in model.modules()):
        raise TypeError(f"model: got {type(model).__name__}; expected a model of transformers")
    if is_patched(model):
        raise bad("model", f"{type(model).__name__}, patched already", "call lckernels.unpatch(model) first")
    if is_compiled(model):
        raise bad("model", f"{type(model).__name__}, compiled", "patch the model, then torch.compile it")
    if positions != "absolute":
        raise bad("positions", repr(positions), "expected 'absolute'; 'cache' is not supported yet")
    if backend is not None and backend not in BACKENDS:
        raise bad("backend", repr(backend), f"allowed are {', '.join(BACKENDS)}")
    check_window(window, sink_tokens)
    configs = (getattr(module, "config", None) for module in model.modules())
    if any(getattr(config, "output_attentions", False) for config in configs):
        raise bad("model", "a config with output_attentions=True", "only eager attention returns the weights")


def check_module(model: object) -> None:
    """Raises TypeError for an argument `model` that is no module."""
    if isinstance(model, nn.Module):
        return
    got = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
    hint = ""
    if isinstance(model, type):
        hint = ", an instance of it"
    elif isinstance(getattr(model, "model", None), nn.Module):
        hint = "; pass its attribute model"
    elif isinstance(model, str):
        hint = ", as AutoModel.from_pretrained loads it"
    raise TypeError(f"model: got {got}; expected a model of transformers{hint}")


def check_window(window: int | Window | None, sink_tokens: int | None) -> None:
    """Raises ValueError for a window or sink tokens that `patch` does not support."""
    sides = (window,) if isinstance(window, int) else window
    if sides is not None:
        lowest = 1 if isinstance(window, int) else -1
        whole = isinstance(sides, tuple) and all(type(side) is int and side >= lowest for side in sides)
        if not whole or len(sides) != (1 if isinstance(window, int) else 2):
            more = "" if type(window) is int else ", (left, right) with sides >= -1, or None"
            raise bad("window", repr(window), f"expected an int >= 1{more}")
    if sink_tokens is None:
        return
    if type(sink_tokens) is not int or sink_tokens < 0:
        raise bad("sink_tokens", repr(sink_tokens), "expected an int >= 0")
    if sink_tokens and window is None:
        raise bad("sink_tokens", sink_tokens, "sink tokens require a window; window is None")
