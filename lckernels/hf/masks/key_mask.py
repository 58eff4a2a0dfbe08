"""The mask descriptor of windowed_attention: a window and a layout."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lckernels.hf.masks.descriptor import Mask
from lckernels.hf.masks.kinds import FULL, Kind, Window
from lckernels.options import Layout
from lckernels.reference import key_positions, visible_keys

_PER_BATCH = ("offset", "kv_start", "kv_end", "kv_mask", "segment_ids", "chunk_origin")


class KeyMask(Mask):
    """A query sees the keys of its window that `visible` leaves.

    Attributes:
        window: (left, right) as in windowed_attention. None: the mask was created under torch.compile, where
            only the layer's kind, from a patch, completes it.
        visible: the layout; its offset is always set.
        dense_mask: the dense mask, if `window` is None.
        local_size: width of the window or chunk that transformers passes, if `window` is None.
        causal: whether the mask is causal, if `window` is None.
    """

    window: Window | None = FULL
    visible: Layout = Layout(offset=0)
    dense_mask: Tensor | None = None
    local_size: int | None = None
    causal: bool = False

    @classmethod
    def create(
        cls, shape: tuple[int, ...], device: torch.device, window: Window | None, visible: Layout
    ) -> "KeyMask":
        """A descriptor of shape (batch, 1, seqlen_q, seqlen_k)."""
        mask = cls.of_shape(*shape, device=device)
        mask.window, mask.visible = window, visible
        return mask

    @property
    def hides_nothing(self) -> bool:
        """Whether every query sees every key."""
        visible = self.visible
        restrictions = (visible.kv_start, visible.kv_end, visible.kv_mask, visible.segment_ids)
        return self.window == FULL and not visible.chunk and all(x is None for x in restrictions)

    def dense(self) -> Tensor:
        if self.window is None:
            return self.dense_mask
        batch, _, seqlen_q, seqlen_k = self.shape
        p = key_positions(batch, seqlen_q, seqlen_k, self.visible, self.device)
        return visible_keys(p, seqlen_k, self.window, self.visible)[:, None]

    def sliced(self, index: Any) -> Tensor:
        """A slice of the queries and a cut of the last keys stay descriptors."""
        slices = _slices(index)
        if slices is None or self.window is None:
            return self.dense()[index]
        batch, _, _, seqlen_k = self.shape
        rows = [s.indices(size) for s, size in zip(slices, self.shape, strict=True)]
        (_, whole, _), (first, last, _), (begin, end, _) = rows[0], rows[2], rows[3]
        cut = end < seqlen_k and self.visible.segment_ids is not None
        if rows[0] != (0, batch, 1) or rows[1] != (0, 1, 1) or begin or cut:
            return self.dense()[index]
        visible = replace(self.visible, offset=self.visible.offset + first)
        if visible.kv_mask is not None:
            visible = replace(visible, kv_mask=visible.kv_mask[:, :end])
        shape = (whole, 1, max(last - first, 0), end)
        return KeyMask.create(shape, self.device, self.window, visible)

    def to_device(self, device: torch.device) -> "KeyMask":
        if device == self.device:
            return self
        moved = {name: getattr(self.visible, name) for name in _PER_BATCH}
        moved = {name: x.to(device) for name, x in moved.items() if isinstance(x, Tensor)}
        mask = KeyMask.create(tuple(self.shape), device, self.window, replace(self.visible, **moved))
        mask.dense_mask = None if self.dense_mask is None else self.dense_mask.to(device)
        mask.local_size, mask.causal = self.local_size, self.causal
        return mask


def _slices(index: Any) -> list[slice] | None:
    """One slice of step 1 for each of the four dimensions; None for an index of another kind."""
    given = list(index) if isinstance(index, tuple) else [index]
    if any(x is Ellipsis for x in given):
        at = next(i for i, x in enumerate(given) if x is Ellipsis)
        given[at : at + 1] = [slice(None)] * (5 - len(given))
    plain = len(given) <= 4 and all(isinstance(x, slice) and x.step in (None, 1) for x in given)
    return given + [slice(None)] * (4 - len(given)) if plain else None


def kind_of_mask(mask: KeyMask) -> Kind:
    """The kind of attention under a mask; bidirectional with seqlen_q != seqlen_k is cross attention."""
    _, _, seqlen_q, seqlen_k = mask.shape
    return Kind(mask.window, mask.visible.chunk, cross=mask.window == FULL and seqlen_q != seqlen_k)
