"""The attention layers of a model by their classes' names, which need not call transformers' interface."""

from collections.abc import Iterable

from torch import nn


def attention_modules(model: nn.Module) -> list[str]:
    """Names of the innermost modules whose class has "Attention" in its name."""
    names = [name for name, module in model.named_modules() if "Attention" in type(module).__name__]
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def is_reached(name: str, calls: Iterable[str]) -> bool:
    """Whether a call came from the module, from one in it, or from one that contains it."""
    return any(f"{a}.".startswith(f"{b}.") for call in calls for a, b in ((name, call), (call, name)))
