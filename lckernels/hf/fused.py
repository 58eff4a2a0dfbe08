"""A linear layer and the activation after it: one product where the layer's weight is packed."""

import dis
from collections.abc import Callable
from functools import cache
from inspect import unwrap

from torch import Tensor, nn

from lckernels.hf.pieces import in_pieces, num_pieces

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GATED_ROWS = 512  # of a piece of a gated MLP, per thread: two products of as many rows have all of its speed


def activated(linear: nn.Module, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """activation(linear(x)), with the activation in the product where linear="packed" can have it there."""
    fused = getattr(linear.__dict__.get("forward"), "activated", None)
    result = None if fused is None else fused(x, activation)
    return activation(linear(x)) if result is None else result


def gated(
    gate: nn.Module, activation: Callable[[Tensor], Tensor], up: nn.Module, down: nn.Module, x: Tensor
) -> Tensor:
    """down(activation(gate(x)) * up(x)), in pieces of rows where `gate` has the activation in its product."""

    def whole(x: Tensor) -> Tensor:
        return down(activated(gate, activation, x) * up(x))

    if num_pieces(x, _GATED_ROWS) == 1:
        return whole(x)
    fused = getattr(gate.__dict__.get("forward"), "fused", None)
    splits = fused is not None and fused(activation) is not None
    splits = splits and all(map(_is_plain, (gate, up, down)))
    return in_pieces(whole, x, _GATED_ROWS) if splits else whole(x)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is torch's, on its own code or a packed weight, without hooks."""
    forward = layer.__dict__.get("forward")
    own = type(layer) is nn.Linear and (forward is None or hasattr(forward, "fused"))
    return own and not has_hooks(layer)


def has_hooks(module: object) -> bool:
    """Whether a call of a module runs hooks, its own or those of all modules."""
    if not isinstance(module, nn.Module):
        return False
    own = module.__dict__
    return any(own[name] for name in _HOOKS) or bool(nn.modules.module._has_any_global_hook())


@cache
def names_and_operators(cls: type, method: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The attributes and functions that a method of a class reads, each once, and its operators in order.

    A family recognizes by them a method that several architectures have. Both are empty without the method.
    """
    code = getattr(unwrap(getattr(cls, method, None)), "__code__", None)
    if code is None:
        return (), ()
    return code.co_names, tuple(x.argrepr for x in dis.get_instructions(code) if x.opname == "BINARY_OP")
