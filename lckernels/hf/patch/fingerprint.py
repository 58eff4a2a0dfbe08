"""Whether a model is still what a decision was made for, found in microseconds at each call."""

from operator import is_
from typing import Any

from torch import nn

from lckernels.hf.family import families
from lckernels.hf.patch.methods import PATCHED
from lckernels.hf.patch.views import configs_in

_COMPILED = "_compiled_call_impl"  # attribute that `module.compile()` sets
_LARGE = 64  # a dict or list with more entries is compared by identity


class Fingerprint:
    """The modules of a model, patched, compiled or not, the fields of their configs, the registered families.

    A comparison takes as long for a config with many labels as for one with few: fields are compared by
    identity, and dicts and lists of up to 64 entries by their contents too.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = _modules(model)
        # A key of these dicts is read faster than an attribute of a module.
        self.attributes = [module.__dict__ for module in self.modules if module is not None]
        found = [(own, named) for own in self.attributes if (named := configs_in(own))]
        self.holders = [model.__dict__, *(own for own, _ in found)]
        self.patched = [PATCHED in own for own in self.holders]
        self.compiled = [own.get(_COMPILED) for own in self.attributes]
        self.configs = [(own, name, config) for own, named in found for name, config in named.items()]
        self.fields = [_Fields(config) for config in _all_configs(config for *_, config in self.configs)]
        self.families = families()

    def matches(self, model: nn.Module) -> bool:
        """Whether the model has these modules, in this state, these fields and families."""
        return (
            _modules(model) == self.modules
            and [PATCHED in own for own in self.holders] == self.patched
            and [own.get(_COMPILED) for own in self.attributes] == self.compiled
            and all(own.get(name) is config for own, name, config in self.configs)
            and all(fields.same() for fields in self.fields)
            and families() == self.families
        )


class _Fields:
    """The fields of one config."""

    def __init__(self, config: Any) -> None:
        self.fields = config.__dict__
        self.names, self.values = list(self.fields), list(self.fields.values())
        small = (x for x in self.values if isinstance(x, dict | list) and len(x) <= _LARGE)
        self.contents = [(x, x.copy()) for x in small]

    def same(self) -> bool:
        return (
            list(self.fields) == self.names
            and all(map(is_, self.fields.values(), self.values))
            and all(x == copied for x, copied in self.contents)
        )


def _modules(model: nn.Module) -> list[nn.Module | None]:
    """The modules of a model; a module in several places is found in each."""
    found: list[nn.Module | None] = [model]
    for module in found:
        if module is not None and module._modules:
            found.extend(module._modules.values())
    return found


def _all_configs(configs: Any) -> list[Any]:
    """The configs and the configs in them, each once."""
    found: dict[int, Any] = {}
    rest = list(configs)
    for config in rest:
        if id(config) not in found:
            found[id(config)] = config
            rest.extend(configs_in(config.__dict__).values())
    return list(found.values())
