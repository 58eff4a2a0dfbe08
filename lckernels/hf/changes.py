"""What lckernels changes on the modules of a model, for a while or until it is undone."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lckernels.checks import bad
from lckernels.hf.attention import NAME, register
from lckernels.hf.settings import SETTINGS, LayerSettings

Settings = dict[nn.Module, LayerSettings]
_CHECKPOINT = "_gradient_checkpointing_func"
_FEED_FORWARD = ("feed_forward_chunk", "ff_chunk")
_KEPT = "_lckernels_kept"  # attribute of a patched module: what its own attributes were
_GIVEN = "_lckernels_config_given"  # in it, beside a config: the fields that the patched one was given
# Changed modules: how many calls need the change, and what their own attributes were.
_changed: WeakKeyDictionary[nn.Module, tuple[int, dict[str, Any]]] = WeakKeyDictionary()
lock = threading.RLock()  # held while modules are changed or copied


class Absent:
    """Stands for an attribute that was not there; a class, so that a copy is the same."""


def reasons(model: nn.Module) -> list[str]:
    """Why `attention_of(model)` would not be what the model computes; empty when it is."""
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not models:
        return ["it is no model of transformers"]
    found = []
    for name in sorted({type(m).__name__ for m in models if not m._can_set_attn_implementation()}):
        found.append(f"the attention of {name} does not go through transformers' attention interface")
    if any(isinstance(getattr(m, "relative_attention_bias", None), nn.Module) for m in model.modules()):
        found.append("it adds a relative position bias, which makes a dense mask of every mask")
    if any(getattr(module.config, "output_attentions", False) for module in models):
        found.append("its config asks for output_attentions, which only its own eager attention gives")
    return found


@contextmanager
def attention_of(
    model: nn.Module, piece_tokens: int | None = None, settings: Settings | None = None
) -> Iterator[None]:
    """Every attention layer of `model` that goes through transformers' interface runs on lckernels.

    The model's modules get configs of their own for as long, so no model that shares one is touched. A layer
    that gradient checkpointing runs again in the backward runs as it did here. Threads may share a model.

    piece_tokens: a feed-forward over more tokens runs in pieces, where the model has a method for one.
    settings: of attention layers, by module.
    """
    register()
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
    """As attention_of, but until `unpatch_modules`; what it undoes is kept on the modules and copied too."""
    register()
    with lock:
        if any(module in _changed for module in model.modules()):
            raise bad("model", f"{type(model).__name__}, in use by a LongEncoder", "patch it before or after")
        copies: dict[int, Any] = {}
        given: dict[int, Any] = {}
        new = {module: _replacements(module, copies, None, settings) for module in model.modules()}
        for module, values in new.items():
            if values:
                kept = {name: module.__dict__.get(name, Absent) for name in values}
                if "config" in values:
                    kept[_GIVEN] = copy.deepcopy(values["config"], given).__dict__
                _set(module, {**values, _KEPT: kept})


def unpatch_modules(model: nn.Module) -> None:
    """Every module has the attributes again that it had before `patch_modules`; edits of its config stay."""
    with lock:
        for module in model.modules():
            kept = dict(module.__dict__.get(_KEPT, {}))
            if _GIVEN in kept:
                _keep_edits(kept.pop(_GIVEN), module.config.__dict__, kept["config"])
            _set(module, {**kept, _KEPT: Absent})


def _keep_edits(given: dict[str, Any], now: dict[str, Any], config: PreTrainedConfig) -> None:
    """What was set on a patched model's own config is set on the one that it gets back."""
    for name, value in now.items():
        ours = name.startswith("_attn_implementation") or isinstance(value, PreTrainedConfig)
        if not ours and (name not in given or given[name] != value):
            setattr(config, name, value)


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has wrapped it or a module of it."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def is_patched(model: nn.Module) -> bool:
    """Whether `patch_modules` has changed a module of it."""
    return any(_KEPT in module.__dict__ for module in model.modules())


def _set(module: nn.Module, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not Absent:
            setattr(module, name, value)
        elif name in module.__dict__:
            delattr(module, name)


def _change(module: nn.Module, copies: dict[int, Any], piece_tokens: int | None, settings: Settings) -> bool:
    """Whether the module has anything to change; it is changed by the first call that needs it."""
    count, kept = _changed.get(module, (0, {}))
    if count == 0:
        new = _replacements(module, copies, piece_tokens, settings)
        kept = {name: module.__dict__.get(name, Absent) for name in new}
        _set(module, new)
    if kept:
        _changed[module] = (count + 1, kept)
    return bool(kept)


def _replacements(
    module: nn.Module, copies: dict[int, Any], piece_tokens: int | None, settings: Settings
) -> dict[str, Any]:
    new, own = {}, module.__dict__
    if isinstance(own.get("config"), PreTrainedConfig):
        new["config"] = copy.deepcopy(own["config"], copies)
        new["config"]._attn_implementation = NAME
    if _CHECKPOINT in own:
        inside = {m: settings[m] for m in module.modules() if m in settings}
        new[_CHECKPOINT] = partial(_checkpoint, module, inside, own[_CHECKPOINT])
    if module in settings:
        new[SETTINGS] = settings[module]
    for name in _FEED_FORWARD if piece_tokens else ():
        if callable(getattr(type(module), name, None)):
            new[name] = _in_pieces(getattr(module, name), piece_tokens)
    return new


def _restore(module: nn.Module) -> None:
    count, kept = _changed.pop(module)
    if count > 1:
        _changed[module] = (count - 1, kept)
    else:
        _set(module, kept)


def _in_pieces(feed_forward: Callable[..., Tensor], piece_tokens: int) -> Callable[..., Tensor]:
    """One piece after the other, so that what is wide stays in the cache."""

    @wraps(feed_forward)  # transformers counts its parameters
    def pieces(x: Tensor, *more: Tensor) -> Tensor:
        if more or x.shape[1] <= piece_tokens:
            return feed_forward(x, *more)
        return torch.cat([feed_forward(piece) for piece in x.split(piece_tokens, dim=1)], dim=1)

    return pieces


def _checkpoint(
    layer: nn.Module, settings: Settings, checkpoint: Callable, function: Callable, *args: Any, **kwargs: Any
) -> Any:
    return checkpoint(partial(_run_within, layer, settings, function), *args, **kwargs)


def _run_within(layer: nn.Module, settings: Settings, function: Callable, *args: Any) -> Any:
    if is_patched(layer):
        return function(*args)
    with attention_of(layer, settings=settings):
        return function(*args)
