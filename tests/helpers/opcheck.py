"""torch's checks of an op, of which tracing is the slow one.

A trace depends on the forms of the arguments, and not on what is in them; so of many calls of an op, those
are traced in which an argument has a form that it had in none before.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

WITHOUT_TRACING = ("test_schema", "test_autograd_registration", "test_faketensor")
ALL = (*WITHOUT_TRACING, "test_aot_dispatch_dynamic")
_seen: set[tuple] = set()


def opcheck(op: Any, args: tuple, every_trace: bool) -> None:
    with_gradients = any(isinstance(x, Tensor) and x.requires_grad for x in tree_leaves(args))
    forms = {(str(op), with_gradients, place, _form(x)) for place, x in enumerate(args)}
    traced = every_trace or not forms <= _seen
    _seen.update(forms)
    torch.library.opcheck(op, args, test_utils=ALL if traced else WITHOUT_TRACING)


def _form(x: Any) -> Any:
    """What a tracer with symbolic sizes tells apart: it takes 0 and 1 for themselves, other sizes alike."""
    if isinstance(x, Tensor):
        return x.dtype, x.requires_grad, x.is_contiguous(), tuple(min(size, 2) for size in x.shape)
    if isinstance(x, list | tuple):
        return tuple(map(_form, x))
    return x if isinstance(x, str) else type(x)
