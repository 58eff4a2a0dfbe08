"""Checks of the arguments of `patch`."""

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from lckernels.backends.registry import BACKENDS
from lckernels.checks import bad, integer
from lckernels.hf.masks.kinds import Window
from lckernels.hf.patch.modules import is_compiled, is_patched
from lckernels.hf.settings import LayerSettings

POSITIONS = ("absolute", "cache")
_ROWS_OF_PADDING = 2
_LARGEST = 2**63 - 1  # a window beyond every sequence has no effect


def check_arguments(
    model: nn.Module,
    positions: str,
    backend: str | None,
) -> None:
    """Raises TypeError or ValueError for a model, positions or backend that `patch` does not support."""
    check_module(model)
    if not any(isinstance(module, PreTrainedModel) for module in model.modules()):
        raise TypeError(f"model: got {type(model).__name__}; expected a model of transformers")
    if is_patched(model):
        raise bad("model", f"{type(model).__name__}, patched already", "call lckernels.unpatch(model) first")
    if is_compiled(model):
        raise bad("model", f"{type(model).__name__}, compiled", "patch the model, then torch.compile it")
    if positions not in POSITIONS:
        raise bad("positions", repr(positions), f"allowed are {', '.join(map(repr, POSITIONS))}")
    if backend is not None and backend not in BACKENDS:
        raise bad("backend", repr(backend), f"allowed are {', '.join(BACKENDS)}")
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


def check_sides(model: nn.Module, settings: Mapping[nn.Module, LayerSettings]) -> None:
    """Raises ValueError for sink tokens of bidirectional layers, and for a window wider than every row.

    Args:
        model: the model.
        settings: of its attention layers, as planned.
    """
    narrowed = [(own, own.narrowed(own.kind)) for own in settings.values() if own.kind and own.narrows]
    if not narrowed:
        return
    own = narrowed[0][0]
    if own.sink_tokens and all(kind.window[1] != 0 for _, kind in narrowed) and not own.virtual_tokens:
        got = f"{own.sink_tokens} for a model with bidirectional layers alone"
        raise bad("sink_tokens", got, "expected 0: sink tokens belong to causal attention")
    positions = _num_learned_positions(model)
    sides = [kind.window[:1] if kind.window[1] == 0 else kind.window for _, kind in narrowed]
    if positions and all(side >= positions or side < 0 for pair in sides for side in pair):
        allowed = "no row has so many tokens, so that it bounds nothing; expected a smaller one"
        raise bad("window", f"{own.window} for a model with {positions:,} positions", allowed)


def _num_learned_positions(model: nn.Module) -> int | None:
    """The number of positions of a model that has a table of them; None without one."""
    configs = (module.config for module in model.modules() if isinstance(module, PreTrainedModel))
    positions = next((getattr(x.get_text_config(), "max_position_embeddings", None) for x in configs), None)
    rows = {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}
    # Some tables have rows for padding beside the positions.
    return positions if positions and any(0 <= n - positions <= _ROWS_OF_PADDING for n in rows) else None


def check_window(
    window: int | Window | None, sink_tokens: int | None
) -> tuple[int | Window | None, int | None]:
    """window and sink_tokens with Python's integers.

    Raises:
        TypeError: a value that is no integer.
        ValueError: a window or sink tokens that `patch` does not support.
    """
    if isinstance(window, tuple | list):
        if len(window) != 2:
            raise bad("window", repr(window), "expected an int >= 1, (left, right) with sides >= -1, or None")
        window = tuple(integer(f"window[{i}]", side, -1, _LARGEST) for i, side in enumerate(window))
        if window == (-1, -1):
            raise bad("window", window, "it has no bound; expected None")
    elif window is not None:
        window = integer(
            "window", window, 1, _LARGEST, alternative=", (left, right) with sides >= -1, or None"
        )
    if sink_tokens is not None:
        sink_tokens = integer("sink_tokens", sink_tokens, 0, _LARGEST)
        if sink_tokens and window is None:
            raise bad("sink_tokens", sink_tokens, "sink tokens require a window; window is None")
    return window, sink_tokens
