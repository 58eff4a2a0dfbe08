"""Views of configs and modules: objects that share all attributes, but have lckernels' attention.

A method that gets its module's view as `self` reads a config whose attention implementation is lckernels. The
config itself does not change, nor does what anything else reads from it.
"""

import copy
from collections.abc import Callable, Iterable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lckernels.hf.family import packs_sequences
from lckernels.hf.interface import NAME, packed_name
from lckernels.hf.private import STORED_IMPLEMENTATION
from lckernels.hf.settings import OF_VIEW, PLAIN, LayerSettings, OwnSettings

_REPLACED = "_lckernels_replaced"  # slot of a config's view: the implementation that lckernels replaces
_VIEWS = "_lckernels_views"  # slot of a view: (config, its view) by the name of the attribute
_PIECE_TOKENS = "_lckernels_piece_tokens"  # slot of a module's view


# Not the config's own __getattribute__, a function of Python.
_attribute_of = object.__getattribute__


class ConfigView:
    """The first base of every view of a config."""

    __slots__ = (_REPLACED, _VIEWS)

    def __init_subclass__(cls, **options: Any) -> None:
        """Replaces transformers' hook for new classes of configs."""

    @property
    def _attn_implementation(self) -> str | None:
        own = _attribute_of(self, "__dict__").get(STORED_IMPLEMENTATION)
        return type(self)._lckernels_name() if own == _attribute_of(self, _REPLACED) else own

    @_attn_implementation.setter
    def _attn_implementation(self, value: Any) -> None:
        PreTrainedConfig._attn_implementation.fset(self, value)

    @staticmethod
    def _lckernels_name() -> str:
        return NAME

    def __deepcopy__(self, memo: dict[int, Any]) -> PreTrainedConfig:
        """Like the copy by `__reduce_ex__`, with a class that torch.compile can trace back to this view."""
        view = object.__new__(type(self))
        object.__setattr__(view, _REPLACED, _attribute_of(self, _REPLACED))
        object.__setattr__(view, _VIEWS, {})
        object.__setattr__(view, "__dict__", copy.deepcopy(_attribute_of(self, "__dict__"), memo))
        return view

    def __reduce_ex__(self, protocol: int) -> tuple:
        """A copy is a view with fields of its own."""
        return _empty_view, (*type(self)._lckernels_class, self._lckernels_replaced), self.__dict__


class PackedConfigView(ConfigView):
    """The same for a module that packs sequences: transformers reads there whether the name has "flash"."""

    __slots__ = ()

    @staticmethod
    def _lckernels_name() -> str:
        return packed_name()


class ModuleView(OwnSettings):
    """The first base of every view of a module."""

    __slots__ = (_VIEWS, _PIECE_TOKENS)

    def __init_subclass__(cls, **options: Any) -> None:
        """Replaces transformers' hook for new classes of models."""


def configs_in(attributes: dict[str, Any]) -> dict[str, PreTrainedConfig]:
    """The configs among the attributes of an object."""
    return {name: value for name, value in attributes.items() if isinstance(value, PreTrainedConfig)}


def config_view(config: PreTrainedConfig, owner: Any = None) -> PreTrainedConfig:
    """An object with the config's fields, of a subclass of its class, whose attention is lckernels.

    An implementation that is set on the config later is the view's too.

    Args:
        config: the config.
        owner: what has it as an attribute.
    """
    nested = configs_in(config.__dict__)
    first = PackedConfigView if packs_sequences(type(owner)) else ConfigView
    view = _empty_view(type(config), tuple(nested), first, config.__dict__.get(STORED_IMPLEMENTATION))
    getattr(view, _VIEWS).update(_views(config, nested))
    object.__setattr__(view, "__dict__", config.__dict__)
    return view


def module_view(
    module: nn.Module,
    configs: dict[str, PreTrainedConfig],
    replaced: dict[str, Any] | None = None,
    pieces: Iterable[str] = (),
    piece_tokens: int | None = None,
    settings: LayerSettings = PLAIN,
) -> nn.Module:
    """An object with the module's attributes, of a subclass of its class, whose configs are views.

    Args:
        module: the module.
        configs: its attributes that are configs.
        replaced: functions (module, ...) that replace its methods, and values that replace its attributes.
        pieces: names of methods (batch, seqlen, dim) -> the same that run over pieces of seqlen.
        piece_tokens: tokens of a piece.
        settings: of an attention layer that has none of a patch.
    """
    cls = _module_class(type(module), tuple(configs), tuple(pieces))
    own = {name: x if callable(x) else _fixed(x) for name, x in (replaced or {}).items()}
    own.update((name, _in_pieces(own[name])) for name in pieces if name in own)
    view = object.__new__(_subclass(cls, own) if own else cls)
    object.__setattr__(view, "__dict__", module.__dict__)
    object.__setattr__(view, _VIEWS, _views(module, configs))
    object.__setattr__(view, _PIECE_TOKENS, piece_tokens)
    object.__setattr__(view, OF_VIEW, settings)
    return view


def _views(
    owner: Any, configs: dict[str, PreTrainedConfig]
) -> dict[str, tuple[PreTrainedConfig, PreTrainedConfig]]:
    return {name: (config, config_view(config, owner)) for name, config in configs.items()}


def _empty_view(base: type, names: tuple[str, ...], first: type, replaced: str | None) -> PreTrainedConfig:
    view = object.__new__(_config_class(base, names, first))
    object.__setattr__(view, _REPLACED, replaced)
    object.__setattr__(view, _VIEWS, {})
    return view


def _attribute(name: str) -> property:
    """The attribute `name` of a view: the view of the config that the shared attributes hold now."""

    def get(self: Any) -> Any:
        config = self.__dict__[name]
        known, view = self._lckernels_views.get(name, (None, None))
        if known is config:
            return view
        if not isinstance(config, PreTrainedConfig):
            return config
        view = config_view(config, self)
        self._lckernels_views[name] = config, view
        return view

    def set_value(self: Any, value: Any) -> None:
        self.__dict__[name] = value

    return property(get, set_value)


def _fixed(value: Any) -> property:
    """An attribute of a view with this value, whatever the module's own is."""
    return property(lambda self: value)


@cache
def _config_class(base: type, names: tuple[str, ...], first: type) -> type:
    attributes = {name: _attribute(name) for name in names}
    return _subclass(base, {**attributes, "_lckernels_class": (base, names, first)}, first)


@cache
def _module_class(base: type, names: tuple[str, ...], pieces: tuple[str, ...]) -> type:
    methods = {name: _in_pieces(getattr(base, name)) for name in pieces}
    return _subclass(base, {**{name: _attribute(name) for name in names}, **methods}, ModuleView)


def _subclass(base: type, attributes: dict[str, Any], *first: type) -> type:
    """A subclass with the base's name, by which transformers recognizes classes."""
    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(base.__name__, (*first, base), {"__slots__": (), **names, **attributes})


def _in_pieces(feed_forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method that runs over one piece after the other, so that wide activations stay in the cache."""

    @wraps(feed_forward)  # transformers counts its parameters
    def pieces(self: nn.Module, x: Tensor, *more: Tensor) -> Tensor:
        width = self._lckernels_piece_tokens
        if more or x.shape[1] <= width:
            return feed_forward(self, x, *more)
        return torch.cat([feed_forward(self, piece) for piece in x.split(width, dim=1)], dim=1)

    return pieces
