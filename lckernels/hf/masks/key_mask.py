"""The mask descriptor of windowed_attention: a window and a layout."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Self

import torch
from torch import Tensor

from lckernels.hf.masks.descriptor import Mask
from lckernels.hf.masks.kinds import FULL, Kind, Window
from lckernels.options import Layout
from lckernels.reference import key_positions, visible_keys

# Fields of a mask's layout that may be tensors.
_FIELDS = ("offset", "kv_start", "kv_end", "kv_mask", "segment_ids", "chunk_origin")
# What a KeyMask is besides its shape, its device and its tensors: window, offset - (seqlen_k - seqlen_q),
# chunk, chunk_origin, local_size, causal. The second is None where the offset is 0 or a tensor: it differs
# from 0 where a cache grows, and torch.compile compiles again when a number of the context changes.
_Context = tuple[Window | None, int | None, int, int, int | None, bool]


class KeyMask(Mask):
    """A query sees the keys of its window that `visible` leaves.

    `create` creates one. torch.compile traces a KeyMask as a wrapper subclass of its tensors; a call of the
    class is a node of its graphs.

    Attributes:
        window: (left, right) as in windowed_attention. None: the mask was created under torch.compile, where
            only the layer's kind, from a patch, completes it.
        visible: the layout; its offset is always set. `layout_of` reads it under torch.compile too.
        dense_mask: the dense mask, if `window` is None.
        local_size: width of the window or chunk that transformers passes, if `window` is None.
        causal: whether the mask is causal, if `window` is None.
        call: sizes and settings of the layers that share the mask, and their call as
            `hf.calls.classify` returned it; None before.
        angles: what the layers that share the mask rotate queries by, for positions="cache"; None before.
        evicted: tokens of each row that a rolling cache has evicted, an int or (batch,); None if not known.
        virtual_tokens: of PEFT in the call, as `hf.virtual_tokens` found them; None before.
    """

    window: Window | None = FULL
    visible: Layout = Layout(offset=0)
    dense_mask: Tensor | None = None
    local_size: int | None = None
    causal: bool = False
    call: Any = None
    angles: Any = None
    evicted: int | Tensor | None = None
    virtual_tokens: int | None = None

    @staticmethod
    def __new__(
        cls: type[Self],
        shape: tuple[int, ...],
        device: torch.device,
        context: _Context,
        tensors: Mapping[str, Tensor],
    ) -> Self:
        mask = cls.of_shape(*shape, device=device)
        mask.window, *_, mask.local_size, mask.causal = context
        mask.visible = _layout(shape, context, tensors)
        mask.dense_mask = tensors.get("dense_mask")
        if mask.tensor_names == ("placeholder",):
            mask.placeholder = tensors["placeholder"] if tensors else torch.zeros((), device=device)
        return mask

    @classmethod
    def create(
        cls,
        shape: tuple[int, ...],
        device: torch.device,
        window: Window | None,
        visible: Layout,
        *,
        dense_mask: Tensor | None = None,
        local_size: int | None = None,
        causal: bool = False,
    ) -> Self:
        """A descriptor of shape (batch, 1, seqlen_q, seqlen_k)."""
        if torch.compiler.is_dynamo_compiling():
            context = _context(shape, window, visible, local_size, causal)
            tensors = {name: getattr(visible, name) for name in _FIELDS}
            tensors["dense_mask"] = dense_mask
            return cls(shape, device, context, {k: x for k, x in tensors.items() if isinstance(x, Tensor)})
        mask = cls.of_shape(*shape, device=device)
        mask.window, mask.visible = window, visible
        mask.dense_mask, mask.local_size, mask.causal = dense_mask, local_size, causal
        return mask

    @property
    def hides_nothing(self) -> bool:
        """Whether every query sees every key."""
        if self.window != FULL:
            return False
        visible = self.visible
        restrictions = (visible.kv_start, visible.kv_end, visible.kv_mask, visible.segment_ids)
        return not visible.chunk and all(x is None for x in restrictions)

    @property
    def context(self) -> _Context:
        """What the descriptor is besides its tensors."""
        return _context(self.shape, self.window, self.visible, self.local_size, self.causal)

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """The attributes that are tensors."""
        names = (*_FIELDS, "dense_mask")
        return tuple(x for x in names if isinstance(getattr(self, x), Tensor)) or ("placeholder",)

    @cached_property
    def placeholder(self) -> Tensor:
        """A tensor, which torch requires in a wrapper subclass, for masks without one."""
        return torch.zeros((), device=self.device)

    def __tensor_flatten__(self) -> tuple[list[str], tuple[torch.device, _Context]]:
        return list(self.tensor_names), (self.device, self.context)

    @staticmethod
    def __tensor_unflatten__(
        tensors: dict[str, Tensor],
        context: tuple[torch.device, _Context],
        shape: tuple[int, ...],
        stride: tuple[int, ...],
    ) -> "KeyMask":
        return KeyMask(shape, *context, tensors)

    def dense(self) -> Tensor:
        if self.window is None:
            return self.dense_mask
        batch, _, seqlen_q, seqlen_k = self.shape
        p = key_positions(batch, seqlen_q, seqlen_k, self.visible, self.device)
        return visible_keys(p, seqlen_k, self.window, self.visible)[:, None]

    def sliced(self, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
        """A slice of the queries and a cut of the last keys stay descriptors."""
        batch, heads, seqlen_q, seqlen_k = self.shape
        size = self.shape[dim]
        first, last = _bound(start, size, 0), _bound(end, size, size)
        if step == 1 and first == 0 and last == size:
            return self.same()
        visible = self.visible
        if self.window is None or step != 1:
            return super().sliced(dim, start, end, step)
        if dim in (2, -2):
            shape = (batch, heads, max(last - first, 0), seqlen_k)
            visible = replace(visible, offset=visible.offset + first)
            return self._like(self.create(shape, self.device, self.window, visible))
        if dim not in (3, -1) or first != 0 or visible.segment_ids is not None:
            return super().sliced(dim, start, end, step)
        if visible.kv_mask is not None:
            visible = replace(visible, kv_mask=visible.kv_mask[:, :last])
        return self._like(self.create((batch, heads, seqlen_q, last), self.device, self.window, visible))

    def to_device(self, device: torch.device) -> Self:
        moved = {name: getattr(self.visible, name) for name in _FIELDS}
        moved = {name: x.to(device) for name, x in moved.items() if isinstance(x, Tensor)}
        mask = self.create(
            tuple(self.shape), device, self.window, replace(self.visible, **moved),
            dense_mask=None if self.dense_mask is None else self.dense_mask.to(device),
            local_size=self.local_size, causal=self.causal,
        )  # fmt: skip
        return self._like(mask)

    def _like(self, mask: Self) -> Self:
        """A mask of the same keys, with what this one has of the rows."""
        if not torch.compiler.is_dynamo_compiling():
            evicted = self.evicted
            mask.evicted = evicted.to(mask.device) if isinstance(evicted, Tensor) else evicted
            mask.virtual_tokens = self.virtual_tokens
        return mask


for _name in _FIELDS:  # torch.compile reads the tensors as attributes of the mask itself
    setattr(KeyMask, _name, property(attrgetter(f"visible.{_name}")))


def _context(
    shape: tuple[int, ...], window: Window | None, visible: Layout, local_size: int | None, causal: bool
) -> _Context:
    offset, origin = visible.offset, visible.chunk_origin
    moved = not isinstance(offset, Tensor) and offset != 0
    shift = int(offset - (shape[3] - shape[2])) if moved else None
    origin = 0 if isinstance(origin, Tensor) else origin
    return window, shift, visible.chunk, origin, local_size, causal


def _layout(shape: tuple[int, ...], context: _Context, tensors: Mapping[str, Tensor]) -> Layout:
    _, shift, chunk, origin, _, _ = context
    fields = {"offset": 0 if shift is None else shape[3] - shape[2] + shift, "chunk_origin": origin}
    fields.update({name: x for name, x in tensors.items() if name in _FIELDS})
    return Layout(chunk=chunk, **fields)


def layout_of(mask: KeyMask) -> Layout:
    """The layout of a mask, also while torch.compile traces."""
    if not torch.compiler.is_dynamo_compiling():
        return mask.visible
    return _layout(mask.shape, mask.context, {name: getattr(mask, name) for name in mask.tensor_names})


def _bound(x: int | None, size: int, default: int) -> int:
    """The bound of a slice, between 0 and `size`."""
    if x is None:
        return default
    x = x + size if x < 0 else x
    return size if x >= size else max(x, 0)


def kind_of_mask(mask: KeyMask) -> Kind:
    """The kind of attention under a mask; bidirectional with seqlen_q != seqlen_k is cross attention."""
    _, _, seqlen_q, seqlen_k = mask.shape
    chunk = layout_of(mask).chunk
    return Kind(mask.window, chunk, cross=mask.window == FULL and seqlen_q != seqlen_k)
