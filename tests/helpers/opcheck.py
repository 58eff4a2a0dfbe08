"""torch.library.opcheck, with a trace only of calls whose arguments have a new form.

Tracing is the slow check. Its result depends on the forms of the arguments (dtype, contiguity, sizes of 0 and
1), not on their values.
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
    """What a trace with symbolic sizes depends on: sizes 0 and 1 are special, all others are equal."""
    if isinstance(x, Tensor):
        return x.dtype, x.requires_grad, x.is_contiguous(), tuple(min(size, 2) for size in x.shape)
    if isinstance(x, list | tuple):
        return tuple(map(_form, x))
    return x if isinstance(x, str) else type(x)
