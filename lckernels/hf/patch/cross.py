"""Cross attention, found by a layer's arguments: its keys come from another sequence than its queries."""

import inspect
from functools import cache
from typing import Any

from torch import nn

from lckernels.hf.settings import PLAIN, LayerSettings, settings_of

# Names in transformers: what the keys are made of, and what the queries are made of.
_KEYS = (
    "key_value_states", "encoder_hidden_states", "cross_attention_states", "context", "context_hidden_states",
    "key", "keys", "key_tensor", "k",
)  # fmt: skip
_QUERIES = ("hidden_states", "latents", "query", "queries", "query_tensor", "q")


def has_other_keys(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether a call of a module has keys of another sequence than its queries.

    Sizes do not matter: two sequences may have the same length. A class with "Cross" in its name always has
    such keys, also where a cache holds them.
    """
    return _is_cross(type(module)) or _other_keys(_parameters(type(module)), args, kwargs)


def may_have_other_keys(cls: type) -> bool:
    """Whether a call of a module of this class may have keys of another sequence."""
    return _is_cross(cls) or any(name in _KEYS for name in _parameters(cls))


def _is_cross(cls: type) -> bool:
    return "Cross" in cls.__name__


def _other_keys(parameters: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> bool:
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    queries = [given[name] for name in _QUERIES if given.get(name) is not None]
    keys = [given[name] for name in _KEYS if given.get(name) is not None]
    return any(all(key is not query for query in queries) for key in keys)


@cache
def _parameters(cls: type) -> tuple[str, ...]:
    """The names of the parameters of the class's forward, without self."""
    try:
        return tuple(inspect.signature(cls.forward).parameters)[1:]
    except (TypeError, ValueError):  # not written in Python
        return ()


def register_hooks(settings: dict[nn.Module, LayerSettings]) -> None:
    """With a window, layers whose kind is not known store at each call whether it is cross attention."""
    for module, own in settings.items():
        if own.kind is None and own.window is not None and may_have_other_keys(type(module)):
            module.register_forward_pre_hook(_StoreCross(type(module)), with_kwargs=True)


def remove_hooks(model: nn.Module) -> None:
    """Removes the hooks of `register_hooks`, those of copies too."""
    for module in model.modules():
        for number in [n for n, hook in module._forward_pre_hooks.items() if isinstance(hook, _StoreCross)]:
            del module._forward_pre_hooks[number]
            module._forward_pre_hooks_with_kwargs.pop(number, None)


class _StoreCross:
    """A hook that stores in a layer's settings whether its present call is cross attention."""

    def __init__(self, cls: type) -> None:
        self.parameters, self.always = _parameters(cls), _is_cross(cls)

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        settings = settings_of(module)
        if settings is not PLAIN:
            settings.cross = self.always or _other_keys(self.parameters, args, kwargs)
