"""lckernels' attention in a model's modules: in a context of the thread, or until it is undone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from lckernels.hf.cache.methods import cache_methods
from lckernels.hf.family import feed_forward_methods, fused_methods, replacements
from lckernels.hf.patch.config_use import reads_configs
from lckernels.hf.patch.methods import (
    FORWARDS,
    PATCHED,
    Method,
    Switch,
    current_switch,
    lock,
    methods_of,
)
from lckernels.hf.patch.views import config_view, configs_in, module_view
from lckernels.hf.settings import PLAIN, SETTINGS, LayerSettings
from lckernels.instance_attributes import Absent, Installed, Replication, restore

Settings = dict[nn.Module, LayerSettings]
_CHECKPOINT = "_gradient_checkpointing_func"
_GENERATION = "prepare_inputs_for_generation"  # creates masks for a static cache


class _Checkpoint(Installed):
    """A module's checkpoint function: what the backward recomputes has the attention of the forward.

    Attributes:
        settings: of the attention layers in the module, for one that is patched.
    """

    def __init__(self, module: nn.Module, own: Callable) -> None:
        super().__init__(module, _CHECKPOINT, own)
        self.settings: Settings = {}

    def __call__(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        switch = None if torch.compiler.is_compiling() else current_switch()
        if switch is not None:
            function = partial(_run_switched, switch, function)
        elif PATCHED in self.module.__dict__:
            function = partial(_run_patched, self.module, self.settings, function)
        return self.own(function, *args, **kwargs)


def lckernels_switch(
    model: nn.Module, piece_tokens: int | None = None, settings: Settings | None = None
) -> Switch:
    """What runs every attention layer that goes through transformers' interface on lckernels.

    It is valid while the model's modules, their configs and their own methods are the same objects.

    Args:
        model: a transformers model, or a module that contains one.
        piece_tokens: a feed-forward over more tokens runs in pieces of so many, where a family names its
            method.
        settings: of attention layers that have none of a patch, by module; for this switch alone.
    """
    of_layer = settings or {}
    views: dict[nn.Module, nn.Module] = {}
    installed: list[Installed] = []
    for module in model.modules():
        pieces = feed_forward_methods(module) if piece_tokens else ()
        methods = _methods(module, pieces)
        if methods:
            known = methods[0].configs, methods[0].functions
            own = of_layer.get(module, PLAIN)
            views[module] = module_view(module, *known, pieces, piece_tokens, own)
        installed += methods
        installed += _checkpoints(module)
    return Switch(views, installed)


@contextmanager
def lckernels_attention(
    model: nn.Module, piece_tokens: int | None = None, settings: Settings | None = None
) -> Iterator[None]:
    """The context of `lckernels_switch`; arguments as there.

    A layer that gradient checkpointing recomputes in the backward runs as in the forward. Other threads run
    the model's own attention.
    """
    with lock:
        switch = lckernels_switch(model, piece_tokens, settings)
    with switch.active():
        yield


def patch_modules(
    model: nn.Module,
    settings: Settings,
    positions: str = "absolute",
    linears: Sequence[Installed] = (),
) -> None:
    """Like lckernels_attention, in all threads until `unpatch_modules`; copies of the model are patched.

    Args:
        model: the model.
        settings: of its attention layers.
        positions: as in `patch`.
        linears: the forwards of linear layers on packed weights.
    """
    with lock:
        installed: list[Installed] = []
        packed = {forward.module: forward for forward in linears}
        values: dict[nn.Module, dict[str, Any]] = {}
        of_cache = cache_methods(model, settings, positions)
        for module in model.modules():
            generates = hasattr(type(module), _GENERATION) and configs_in(module.__dict__)
            more = (_GENERATION,) if generates else ()
            methods = _methods(module, more, fused=bool(linears), replaced=of_cache.get(module))
            inside = {m: settings[m] for m in module.modules() if m in settings}
            own = [*methods, *_checkpoints(module, inside), *(x for x in (packed.get(module),) if x)]
            new = _values(module, methods, settings)
            if own or new:
                installed += [*own, Replication(module)]
                values[module] = new
        for attribute in installed:
            attribute.install()
        for module, new in values.items():
            # What was there before.
            old = {name: module.__dict__.get(name, Absent) for name in new}
            module.__dict__.update({**new, PATCHED: old})


def unpatch_modules(model: nn.Module) -> None:
    """Restores the attributes before `patch_modules`."""
    with lock:
        for module in model.modules():
            old = module.__dict__.pop(PATCHED, None)
            if old is None:
                continue
            for name, value in old.items():
                restore(module, name, value)
            for name, value in list(module.__dict__.items()):
                if isinstance(value, Installed) and value.module is module:
                    value.release()
                    if name != value.name and not value.uses:
                        module.__dict__[name] = value.original  # another library has moved it


def linear_switch(model: nn.Module, linears: Sequence[Installed]) -> Switch:
    """What runs linear layers on packed weights, in the threads that are in its context.

    Args:
        model: the model.
        linears: the forwards of these layers.
    """
    fused = {module: fused_methods(module) for module in model.modules()} if linears else {}
    methods = [method for m, own in fused.items() for method in methods_of(m, list(own), {}, own)]
    views = {method.module: module_view(method.module, {}, method.functions) for method in methods}
    return Switch({**views, **{x.module: x.module for x in linears}}, [*linears, *methods])


def _methods(
    module: nn.Module,
    more: tuple[str, ...],
    fused: bool = False,
    replaced: dict[str, Callable] | None = None,
) -> list[Method]:
    """The methods of a module that run on its view.

    Args:
        module: the module.
        more: names beside forward and the replaced ones.
        fused: whether those are replaced that compute a linear layer and its activation.
        replaced: further functions (module, ...) that replace methods.
    """
    configs, functions = configs_in(module.__dict__), replacements(module)
    functions = {**(fused_methods(module) if fused else {}), **functions, **(replaced or {})}
    forward = ("forward",) if reads_configs(module, configs) else ()
    names = [name for name, value in functions.items() if callable(value)]
    return methods_of(module, list(dict.fromkeys((*forward, *names, *more))), configs, functions)


def _checkpoints(module: nn.Module, settings: Settings | None = None) -> list[_Checkpoint]:
    """The module's checkpoint function, if it has one."""
    own = module.__dict__.get(_CHECKPOINT)
    if own is None:
        return []
    found = own if type(own) is _Checkpoint else _Checkpoint(module, own)
    found.settings = settings or found.settings
    return [found]


def _values(module: nn.Module, methods: list[Method], settings: Settings) -> dict[str, Any]:
    """Further attributes of a patched module."""
    values = {SETTINGS: settings[module]} if module in settings else {}
    configs = configs_in(module.__dict__)
    runs_on_view = any(method.name in FORWARDS for method in methods)
    if reads_configs(module, configs) and not runs_on_view:
        # A function of the instance is its forward, and reads the module's own attributes.
        values.update({name: config_view(config, module) for name, config in configs.items()})
    return values


def _run_switched(switch: Switch, function: Callable, *args: Any) -> Any:
    with switch.active():
        return function(*args)


def _run_patched(layer: nn.Module, settings: Settings, function: Callable, *args: Any) -> Any:
    if is_patched(layer):
        return function(*args)
    with lckernels_attention(layer, settings=settings):
        return function(*args)


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has wrapped the model or one of its modules."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def is_patched(model: nn.Module) -> bool:
    """Whether `patch_modules` has changed one of its modules."""
    return any(PATCHED in module.__dict__ for module in model.modules())
