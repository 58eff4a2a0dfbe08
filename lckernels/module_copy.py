"""A copy of a model for a dry run: without its hooks, its tensors replaced."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

from lckernels.inner_forward import INNER

_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_hf_hook",  # the last is accelerate's, for offloaded weights
)  # fmt: skip
_SHARDED = "__composable_api_state_key"  # attributes of a module under FSDP2, with its process group


def copy_without_hooks(
    model: nn.Module, tensor: Callable[[Tensor], Tensor], same: Mapping[int, Any] | None = None
) -> nn.Module:
    """A deep copy of the model without hooks and methods of the instance, in eval mode.

    Args:
        model: the model, which does not change.
        tensor: maps each parameter, buffer and tensor attribute of a module to the copy's.
        same: id -> what the copy has in the place of further objects.
    """
    memo: dict[int, Any] = {**(same or {})}
    memo.update((id(x), tensor(x)) for x in chain(model.parameters(), model.buffers()))
    for module in model.modules():
        own = module.__dict__
        memo.update((id(own[name]), OrderedDict()) for name in _HOOKS if own.get(name) is not None)
        # States that a module stores from call to call.
        states = (x for x in own.values() if isinstance(x, Tensor) and id(x) not in memo)
        memo.update((id(x), tensor(x)) for x in states)
    sharded = {module: shell for module in model.modules() if (shell := _shell(module)) is not None}
    memo.update((id(module), shell) for module, shell in sharded.items() if id(module) not in memo)
    for module, shell in sharded.items():
        own = {name: x for name, x in module.__dict__.items() if not name.startswith(_SHARDED)}
        shell.__dict__.update({name: copy.deepcopy(x, memo) for name, x in own.items()})
    result = copy.deepcopy(model, memo)
    for module in result.modules():
        # Not by eval(), which some modules override: on shared weights that would change the model.
        module.training = False
        # A method of the instance is a wrapper, which may refer to the model itself.
        module.__dict__.pop(INNER, None)
        for name in [name for name in module.__dict__ if callable(getattr(type(module), name, None))]:
            del module.__dict__[name]
    return result


def _shell(module: nn.Module) -> nn.Module | None:
    """An empty module of the class that FSDP2 replaced by one whose instances cannot be copied; else None."""
    cls = type(module)
    if not getattr(vars(cls).get("__deepcopy__"), "__module__", "").startswith("torch.distributed."):
        return None
    original = next(base for base in cls.__bases__ if issubclass(base, nn.Module))
    return original.__new__(original)
