"""The pooler_output of merged states: the encoder's own pooler, run once on the whole sequence."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

_ACTIVATIONS = ("pooler_activation", "activation")  # beside a pooler that is a linear layer


def pool(model: nn.Module, way: str, states: Tensor) -> Tensor | None:
    """The model's pooler_output for states (batch, seqlen, dim); None for the way "".

    Args:
        model: the encoder.
        way: as `pooling_way` returns it.
        states: of the last layer.
    """
    return _WAYS[way](model, states) if way else None


def pooling_way(model: nn.Module, states: Tensor, pooled: Tensor) -> str:
    """How the model computes its pooler_output from its last hidden states; "" if in no known way.

    Args:
        model: the encoder, in eval mode.
        states: (rows, seqlen, dim), its states for some rows.
        pooled: its pooler_output for them.
    """
    for way in _WAYS:
        result = _result(model, way, states)
        if result is not None and result.shape == pooled.shape and (result.is_meta or _same(result, pooled)):
            return way
    return ""


def _result(model: nn.Module, way: str, states: Tensor) -> Tensor | None:
    try:
        return _WAYS[way](model, states)
    except Exception:  # a pooler with other arguments, or none: this is not its way
        return None


def _same(result: Tensor, expected: Tensor) -> bool:
    """Equal up to rounding: it is the same operation on the same values."""
    scale = expected.double().abs().max()
    return bool((result.double() - expected.double()).abs().max() <= 1e-3 * scale)


def _by_module(model: Any, states: Tensor) -> Tensor | None:
    return None if isinstance(model.pooler, nn.Linear) else model.pooler(states)


def _by_linear(model: Any, states: Tensor) -> Tensor:
    activation = next(getattr(model, name) for name in _ACTIVATIONS if hasattr(model, name))
    return activation(model.pooler(states[:, 0]))


_WAYS: dict[str, Callable[[Any, Tensor], Tensor | None]] = {
    "its pooler": _by_module,
    "its pooler, a linear layer": _by_linear,
}
