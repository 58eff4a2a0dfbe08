"""Calls of a model that changes itself in a call, as BigBird does: afterwards it is as before."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from lckernels.long.encoder_check import is_transformers_model

_locks: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()  # of modules that calls change
_adding = RLock()


def unchanged_by_calls(model: nn.Module, inner: Callable[..., Any]) -> Callable[..., Any]:
    """Runs `inner`, then undoes what the call changed in the model itself, where a family has that.

    Threads call such a model one after the other; other models do not wait.
    """
    if not is_transformers_model(model):
        return inner
    from lckernels.hf.family import changed_by_calls, changes_undone

    changed = changed_by_calls(model)
    if not changed:
        return inner

    def call(*args: Any, **inputs: Any) -> Any:
        with _held(changed):
            changes = changes_undone(model)
            try:
                return inner(*args, **inputs)
            finally:
                for undo in changes:
                    undo()

    return call


@contextmanager
def _held(modules: list[nn.Module]) -> Iterator[None]:
    """Holds the lock of each module, in one order in all threads: two models may share some."""
    with _adding:
        locks = [_locks.setdefault(module, RLock()) for module in sorted(modules, key=id)]
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield
