"""Changes of a model's modules: temporary, or until they are undone."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from lckernels.checks import bad
from lckernels.hf.family import feed_forward_methods, replacements
from lckernels.hf.interface import NAME
from lckernels.hf.settings import SETTINGS, LayerSettings

Settings = dict[nn.Module, LayerSettings]
_CHECKPOINT = "_gradient_checkpointing_func"
_ORIGINAL = "_lckernels_original"  # attribute of a patched module: its attributes before
_CONFIG_FIELDS = "_lckernels_config_fields"  # in it, beside a config: the fields of the copy when it was made
# Temporarily changed modules: number of contexts, and the attributes before.
_changed: WeakKeyDictionary[nn.Module, tuple[int, dict[str, Any]]] = WeakKeyDictionary()
lock = threading.RLock()  # held while modules are changed or copied


class Absent:
    """Marks a missing attribute; a class, so that a copy is identical."""


@contextmanager
def lckernels_attention(
    model: nn.Module, piece_tokens: int | None = None, settings: Settings | None = None
) -> Iterator[None]:
    """Temporarily runs every attention layer that goes through transformers' interface on lckernels.

    The model's modules get their own configs meanwhile, so that models which share one do not change. A layer
    that gradient checkpointing recomputes in the backward runs as in the forward. Threads may share a model.

    Args:
        model: a transformers model, or a module that contains one.
        piece_tokens: a feed-forward over more tokens runs in pieces of so many, where a family names its
            method.
        settings: of attention layers, by module.
    """
    changed: list[nn.Module] = []
    copies: dict[int, Any] = {}
    given = settings or {}
    try:
        with lock:
            changed.extend(
                module for module in model.modules() if _change(module, copies, piece_tokens, given)
            )
        yield
    finally:
        with lock:
            for module in changed:
                _restore(module)


def patch_modules(model: nn.Module, settings: Settings) -> None:
    """Like lckernels_attention, until `unpatch_modules`; the modules store what undoes it, and copies too."""
    with lock:
        if any(module in _changed for module in model.modules()):
            raise bad("model", f"{type(model).__name__}, in use by a LongEncoder", "patch it before or after")
        copies: dict[int, Any] = {}
        fields: dict[int, Any] = {}
        new = {module: _new_attributes(module, copies, None, settings) for module in model.modules()}
        for module, values in new.items():
            if values:
                original = {name: module.__dict__.get(name, Absent) for name in values}
                if "config" in values:
                    original[_CONFIG_FIELDS] = copy.deepcopy(values["config"], fields).__dict__
                _set(module, {**values, _ORIGINAL: original})


def unpatch_modules(model: nn.Module) -> None:
    """Restores the attributes before `patch_modules`; fields that were set on the config since are copied."""
    with lock:
        for module in model.modules():
            original = dict(module.__dict__.get(_ORIGINAL, {}))
            if _CONFIG_FIELDS in original:
                _copy_edits(original.pop(_CONFIG_FIELDS), module.config.__dict__, original["config"])
            _set(module, {**original, _ORIGINAL: Absent})


def _copy_edits(before: dict[str, Any], now: dict[str, Any], config: PreTrainedConfig) -> None:
    """Sets the fields on `config` that were set on the patched model's copy of it."""
    for name, value in now.items():
        ours = name.startswith("_attn_implementation") or isinstance(value, PreTrainedConfig)
        if not ours and (name not in before or before[name] != value):
            setattr(config, name, value)


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has wrapped the model or one of its modules."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def is_patched(model: nn.Module) -> bool:
    """Whether `patch_modules` has changed one of its modules."""
    return any(_ORIGINAL in module.__dict__ for module in model.modules())


def _set(module: nn.Module, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not Absent:
            setattr(module, name, value)
        elif name in module.__dict__:
            delattr(module, name)


def _change(module: nn.Module, copies: dict[int, Any], piece_tokens: int | None, settings: Settings) -> bool:
    """Changes the module in the first context that contains it; whether there is anything to change."""
    count, original = _changed.get(module, (0, {}))
    if count == 0:
        new = _new_attributes(module, copies, piece_tokens, settings)
        original = {name: module.__dict__.get(name, Absent) for name in new}
        _set(module, new)
    if original:
        _changed[module] = (count + 1, original)
    return bool(original)


def _new_attributes(
    module: nn.Module, copies: dict[int, Any], piece_tokens: int | None, settings: Settings
) -> dict[str, Any]:
    new, own = replacements(module), module.__dict__
    if isinstance(own.get("config"), PreTrainedConfig):
        new["config"] = copy.deepcopy(own["config"], copies)
        new["config"]._attn_implementation = NAME
    if _CHECKPOINT in own:
        inside = {m: settings[m] for m in module.modules() if m in settings}
        new[_CHECKPOINT] = partial(_checkpoint, module, inside, own[_CHECKPOINT])
    if module in settings:
        new[SETTINGS] = settings[module]
    for name in feed_forward_methods(module) if piece_tokens else ():
        new[name] = _in_pieces(getattr(module, name), piece_tokens)
    return new


def _restore(module: nn.Module) -> None:
    count, original = _changed.pop(module)
    if count > 1:
        _changed[module] = (count - 1, original)
    else:
        _set(module, original)


def _in_pieces(feed_forward: Callable[..., Tensor], piece_tokens: int) -> Callable[..., Tensor]:
    """Runs over one piece after the other, so that wide activations stay in the cache."""

    @wraps(feed_forward)  # transformers counts its parameters
    def pieces(x: Tensor, *more: Tensor) -> Tensor:
        if more or x.shape[1] <= piece_tokens:
            return feed_forward(x, *more)
        return torch.cat([feed_forward(piece) for piece in x.split(piece_tokens, dim=1)], dim=1)

    return pieces


def _checkpoint(
    layer: nn.Module, settings: Settings, checkpoint: Callable, function: Callable, *args: Any, **kwargs: Any
) -> Any:
    return checkpoint(partial(_run_on_lckernels, layer, settings, function), *args, **kwargs)


def _run_on_lckernels(layer: nn.Module, settings: Settings, function: Callable, *args: Any) -> Any:
    if is_patched(layer):
        return function(*args)
    with lckernels_attention(layer, settings=settings):
        return function(*args)
