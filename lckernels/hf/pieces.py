"""Functions of single rows over pieces of a call's rows: the memory of their intermediate results is reused.

The intermediate results of a whole long sequence are in fresh memory, whose page faults cost more time than
the arithmetic on it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lckernels.ops.registration import is_intercepted


def num_pieces(x: Tensor, rows: int) -> int:
    """How many pieces of at least so many rows per thread `in_pieces` computes; 1 for the whole."""
    if torch.compiler.is_dynamo_compiling() or type(x) is not Tensor or x.is_nested or x.dim() == 0:
        return 1
    pieces = x.numel() // (max(x.shape[-1], 1) * rows * torch.get_num_threads())
    if pieces < 2 or torch.is_grad_enabled() or is_intercepted():
        return 1
    return pieces if x.is_cpu and x.layout is torch.strided and x.is_contiguous() else 1


def in_pieces(function: Callable[[Tensor], Tensor], x: Tensor, rows: int) -> Tensor:
    """function(x), computed for pieces of at least so many rows per thread where that gives the same.

    That is: without gradients, for an ordinary contiguous tensor on the CPU, and without modes, traces,
    transforms or autocast.

    Args:
        function: (..., features) -> (..., other features); each row of its result depends on one row alone.
        x: the argument.
        rows: of a piece, per thread.
    """
    pieces = num_pieces(x, rows)
    if pieces == 1:
        return function(x)
    parts = x.view(-1, x.shape[-1]).tensor_split(pieces)
    first = function(parts[0])
    result = first.new_empty((*x.shape[:-1], first.shape[-1]))
    places = result.view(-1, first.shape[-1]).tensor_split(pieces)
    places[0].copy_(first)
    del first
    for part, place in zip(parts[1:], places[1:], strict=True):
        place.copy_(function(part))
    return result
