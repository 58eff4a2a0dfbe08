"""Calls of one model one at a time: a task changes the model and its tokenizer while it runs."""

import threading
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from torch import nn

from lckernels.long.parts import find_parts

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_locks: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
_of_locks = threading.Lock()


def model_lock(model: Any) -> threading.RLock:
    """The lock of a model, the same for each with the same encoder; of something else a new one."""
    if not isinstance(model, nn.Module):
        return threading.RLock()
    try:
        changed = find_parts(model, compiled=True).encoder
    except TypeError:  # no encoder; the task raises, or does not change one
        changed = model
    with _of_locks:
        return _locks.setdefault(changed, threading.RLock())


def one_at_a_time(
    task: Callable[Concatenate[nn.Module, _Arguments], _Result],
) -> Callable[Concatenate[nn.Module, _Arguments], _Result]:
    """The function; a call waits until another thread's call with the same encoder has ended."""

    @wraps(task)
    def call(model: nn.Module, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with model_lock(model):
            return task(model, *args, **kwargs)

    return call
