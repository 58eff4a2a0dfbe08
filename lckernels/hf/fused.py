"""A linear layer and the activation after it: one product where the layer's weight is packed."""

import dis
from collections.abc import Callable
from functools import cache
from inspect import unwrap

from torch import Tensor, nn


def activated(linear: nn.Module, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """activation(linear(x)), with the activation in the product where linear="packed" can have it there."""
    fused = getattr(linear.__dict__.get("forward"), "activated", None)
    result = None if fused is None else fused(x, activation)
    return activation(linear(x)) if result is None else result


@cache
def names_and_operators(cls: type, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The attributes and functions that a method of a class reads, each once, and its operators in order.

    A family recognizes by them a method that several architectures have. Both are empty without the method.
    """
    code = getattr(unwrap(getattr(cls, method, None)), "__code__", None)
    if code is None:
        return (), ()
    return code.co_names, tuple(x.argrepr for x in dis.get_instructions(code) if x.opname == "BINARY_OP")
