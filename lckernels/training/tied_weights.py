"""Weights with two names in a state_dict: safetensors, by which Trainer saves a module, stores one name."""

from typing import Any

from torch import nn


class TiedWeights:
    """Hooks of a module: its state_dict has each weight once, and `load_state_dict` accepts that.

    The state_dict of modules within it does not change.
    """

    @staticmethod
    def install(module: nn.Module) -> None:
        """Registers the hooks."""
        module.register_state_dict_post_hook(_drop)
        module.register_load_state_dict_pre_hook(_add)


def second_names(module: nn.Module) -> dict[str, str]:
    """Name -> first name, of each further name of a parameter or buffer."""
    first: dict[int, str] = {}
    found = {}
    tensors = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    for name, x in tensors:
        if first.setdefault(id(x), name) != name:
            found[name] = first[id(x)]
    return found


def _drop(module: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    for name in second_names(module):
        state_dict.pop(prefix + name, None)


def _add(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, first in second_names(module).items():
        if prefix + first in state_dict:
            state_dict.setdefault(prefix + name, state_dict[prefix + first])
