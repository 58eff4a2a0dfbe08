"""FLOPs of the ops for torch.utils.flop_counter: the matrix products of attention over the visible pairs.

The other ops have no matrix product, which is all that torch counts.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import flop_registry, register_flop_formula

from lckernels.fields import FlatOptions, grouped_options
from lckernels.flops import attention_backward_flops, attention_flops
from lckernels.segments import Column
from lckernels.visible import visible_pairs


def _has_values(x: Tensor) -> bool:
    return not isinstance(x, FakeTensor) and x.device.type != "meta"


def _windowed_pairs(q: Tensor, k: Tensor, arguments: tuple) -> int:
    """Visible pairs of all sequences, for one head. A tensor without values hides no key."""
    flat = FlatOptions._make(
        None if isinstance(x, Tensor) and not _has_values(x) else x for x in arguments[:-1]
    )
    return visible_pairs(q.shape[1], k.shape[1], flat.window_size, grouped_options(flat).layout, q.shape[0])


def windowed_attention(q: Tensor, k: Tensor, v: Tensor, *arguments: Any) -> int:
    return attention_flops(_windowed_pairs(q, k, arguments), q.shape[2], q.shape[3], v.shape[3])


def windowed_attention_backward(
    dout: Tensor, dlse: Any, q: Tensor, k: Tensor, v: Tensor, out: Any, lse: Any, *arguments: Any
) -> int:
    return attention_backward_flops(_windowed_pairs(q, k, arguments), q.shape[2], q.shape[3], v.shape[3])


def _chunked_pairs(extra_q: Tensor | None, segments: Tensor, num_chunks: int, chunk_len: int) -> int:
    """Pairs of all chunks, for one head; chunks without padding where the plan's tensors have no values."""
    rows = torch.full((num_chunks,), chunk_len, dtype=torch.int64, device="cpu")
    if _has_values(segments):
        table = segments.cpu().long()
        rows = torch.zeros_like(rows).index_add(0, table[:, Column.ROW], table[:, Column.LENGTH])
    num_extra = 0 if extra_q is None else extra_q.shape[1]
    return int((rows + num_extra).square().sum())


def _chunked_flops(
    flops: Callable[[int, int, int, int], int],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_q: Tensor | None,
    extra_k: Any,
    extra_v: Any,
    weights: Any,
    segments: Tensor,
    tile_segments: Any,
    num_chunks: int,
    chunk_len: int,
    *_: Any,
) -> int:
    pairs = _chunked_pairs(extra_q, segments, num_chunks, chunk_len)
    return flops(pairs, q.shape[1], q.shape[2], v.shape[2])


def chunked_attention(*arguments: Any) -> int:
    return _chunked_flops(attention_flops, *arguments)


def chunked_attention_backward(dout: Tensor, dextra_out: Any, *arguments: Any) -> int:
    return _chunked_flops(attention_backward_flops, *arguments)


def _formula(function: Callable[..., int]) -> Callable[..., int]:
    """The function as torch calls a formula; it reads real tensors in a FakeTensorMode too."""

    @wraps(function)
    def formula(*args: Any, out_val: Any = None) -> int:
        with _disable_current_modes():
            return function(*args)

    return formula


def register() -> None:
    """Adds the formulas to torch's registry."""
    for function in (
        windowed_attention,
        windowed_attention_backward,
        chunked_attention,
        chunked_attention_backward,
    ):
        op = getattr(torch.ops.lckernels, function.__name__)
        if op not in flop_registry:
            register_flop_formula(op, get_raw=True)(_formula(function))
