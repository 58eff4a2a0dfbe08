"""What takes the place of an N x N mask in transformers: a few numbers that say which keys a query sees."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.options import ExtraTokens, Layout
from lckernels.plan import Plan
from lckernels.reference import key_positions, visible_keys

# Properties that compute; all others only tell something of the tensor.
_COMPUTED = {getattr(Tensor, name).__get__ for name in ("T", "H", "mT", "mH", "real", "imag", "data")}
_ASKED = {
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.untyped_storage),
    *(Tensor._is_view, Tensor.storage_offset, Tensor.element_size, Tensor.is_conj, Tensor.is_neg),
    Tensor.requires_grad.__set__,  # a reentrant checkpoint sets what is there
}
WAY = "transformers' attention interface"
_UNCHANGED = {Tensor.contiguous, Tensor.clone, Tensor.detach}
# What builds a mask from masks alone; there a mask is the dense one.
_JOINS = {torch.cat, torch.concat}
_REPEATS = {Tensor.expand, Tensor.repeat, Tensor.repeat_interleave}
_PER_BATCH = ("offset", "kv_start", "kv_end", "kv_mask", "segment_ids", "chunk_origin")
Window = tuple[int, int]
FULL: Window = (-1, -1)
CAUSAL: Window = (-1, 0)


class NotServed(ValueError):
    """A model asks for what lckernels' attention cannot do without changing the result."""


class Mask(Tensor):
    """Has the shape of a 4-D mask and one byte of memory; only an attention function knows what it says.

    torch's scaled_dot_product_attention gets the dense mask; any other arithmetic with it raises NotServed.
    """

    @classmethod
    def of_shape(cls, *shape: int, device: torch.device) -> "Mask":
        return torch.zeros((), dtype=torch.bool, device=device).expand(shape).as_subclass(cls)

    def dense(self) -> Tensor:
        """(batch, 1, seqlen_q, seqlen_k) bool, True where a query sees a key."""
        raise NotServed(
            f"model: its attention does not go through {WAY}, so a {type(self).__name__} is nothing to it"
        )

    def part(self, index: Any) -> Tensor:
        """`mask[index]`; the dense mask's where it is no mask of this kind."""
        return self.dense()[index]

    def on(self, device: torch.device) -> "Mask":
        """The mask on another device."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mask":
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _UNCHANGED and isinstance(args[0], Mask):
            return args[0]
        if func is Tensor.to and isinstance(args[0], Mask):
            return args[0].on(_device(args[0], *args[1:], *kwargs.values()))
        if func is Tensor.__getitem__ and isinstance(args[0], Mask):
            return args[0].part(args[1])
        # A tensor of the model's own may be numbers to add, where 0 is visible.
        joins = func in _JOINS and args and all(isinstance(x, Mask) for x in args[0])
        if func is F.scaled_dot_product_attention or joins or func in _REPEATS:
            return func(*_dense(args), **{name: _dense(x) for name, x in kwargs.items()})
        asked = func in _ASKED or (func.__name__ == "__get__" and func not in _COMPUTED)
        if not asked:
            name = getattr(func, "__name__", func)
            raise NotServed(f"model: it computes with its attention mask itself ({name}), outside {WAY}")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}"


def _device(mask: Mask, *given: Any) -> torch.device:
    """The device that the arguments of `Tensor.to` name."""
    for x in given:
        if isinstance(x, torch.device | str):
            return torch.device(x)
        if isinstance(x, Tensor):
            return x.device
    return mask.device


def _dense(x: Any) -> Any:
    if isinstance(x, Mask):
        return x.dense()
    return type(x)(_dense(y) for y in x) if type(x) in (list, tuple) else x


class KeyMask(Mask):
    """A query sees the keys of its window, and of these what `visible` leaves, whose offset is always given.

    window: as in windowed_attention. None stands for a mask that torch.compile traces and that only its
        layer knows, from a patch; then `dense_mask` is what it says, and `local_size` and `causal` what is
        known of it.
    """

    window: Window | None = FULL
    visible: Layout = Layout(offset=0)
    dense_mask: Tensor | None = None
    local_size: int | None = None
    causal: bool = False

    @classmethod
    def of(
        cls, shape: tuple[int, ...], device: torch.device, window: Window | None, where: Layout
    ) -> "KeyMask":
        mask = cls.of_shape(*shape, device=device)
        mask.window, mask.visible = window, where
        return mask

    def dense(self) -> Tensor:
        if self.window is None:
            return self.dense_mask
        batch, _, seqlen_q, seqlen_k = self.shape
        p = key_positions(batch, seqlen_q, seqlen_k, self.visible, self.device)
        return visible_keys(p, seqlen_k, self.window, self.visible)[:, None]

    def part(self, index: Any) -> Tensor:
        """A slice of the queries and a cut of the last keys stay what they are."""
        slices = _slices(index)
        if slices is None or self.window is None:
            return self.dense()[index]
        batch, _, _, seqlen_k = self.shape
        rows = [s.indices(size) for s, size in zip(slices, self.shape, strict=True)]
        (_, whole, _), (first, last, _), (begin, end, _) = rows[0], rows[2], rows[3]
        cut = end < seqlen_k and self.visible.segment_ids is not None
        if rows[0] != (0, batch, 1) or rows[1] != (0, 1, 1) or begin or cut:
            return self.dense()[index]
        where = replace(self.visible, offset=self.visible.offset + first)
        if where.kv_mask is not None:
            where = replace(where, kv_mask=where.kv_mask[:, :end])
        shape = (whole, 1, max(last - first, 0), end)
        return KeyMask.of(shape, self.device, self.window, where)

    def on(self, device: torch.device) -> "KeyMask":
        if device == self.device:
            return self
        moved = {name: getattr(self.visible, name) for name in _PER_BATCH}
        moved = {name: x.to(device) for name, x in moved.items() if isinstance(x, Tensor)}
        mask = KeyMask.of(tuple(self.shape), device, self.window, replace(self.visible, **moved))
        mask.dense_mask = None if self.dense_mask is None else self.dense_mask.to(device)
        mask.local_size, mask.causal = self.local_size, self.causal
        return mask


def _slices(index: Any) -> list[slice] | None:
    """One slice of step 1 for each of the four dimensions, or None if the index is of another kind."""
    given = list(index) if isinstance(index, tuple) else [index]
    if any(x is Ellipsis for x in given):
        at = next(i for i, x in enumerate(given) if x is Ellipsis)
        given[at : at + 1] = [slice(None)] * (5 - len(given))
    plain = len(given) <= 4 and all(isinstance(x, slice) and x.step in (None, 1) for x in given)
    return given + [slice(None)] * (4 - len(given)) if plain else None


class ChunkMask(Mask):
    """One row of tokens, each of which sees its chunks: total_len of a plan, then each chunk's extra tokens.

    plan, weights: as in chunked_attention, on the row's device. num_extra: extra tokens of a chunk.
    on_layer: called with each attention layer that has run.
    """

    plan: Plan
    weights: str | Tensor
    num_extra: int
    on_layer: Callable[[], None]

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, heads, seqlen, dim) to (total_len, heads, dim) and (num_chunks, num_extra, heads, dim)."""
        rows = x[0].transpose(0, 1)
        content, extra = rows[: self.plan.total_len], rows[self.plan.total_len :]
        return content, extra.unflatten(0, (self.plan.num_chunks, self.num_extra))

    def inputs(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[tuple[Tensor, ...], ExtraTokens | None]:
        """q, k, v of the content, and the extra tokens."""
        pairs = [self.split(x) for x in (q, k, v)]
        extra = ExtraTokens(*(pair[1] for pair in pairs)) if self.num_extra else None
        return tuple(pair[0] for pair in pairs), extra


def padding_layout(valid: Tensor | None) -> Layout:
    """Where the valid keys lie: padding at the ends becomes bounds, other padding stays a mask.

    valid: (batch, seqlen_k) bool; None is all. On a GPU and under torch.compile its values are not read: it
    goes with the bounds.
    """
    read = valid is not None and valid.device.type == "cpu" and not torch.compiler.is_compiling()
    if valid is None or (read and bool(valid.all())):
        return Layout()
    seqlen_k = valid.shape[1]
    number = valid.to(torch.uint8)
    some = valid.any(1)
    kv_start = torch.where(some, number.argmax(1), 0)
    kv_end = torch.where(some, seqlen_k - number.flip(1).argmax(1), 0)
    whole = read and bool((kv_end - kv_start == number.sum(1)).all())
    return Layout(kv_start=kv_start, kv_end=kv_end, kv_mask=None if whole else valid)
