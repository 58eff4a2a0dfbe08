"""The base class of mask descriptors."""

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten
INTERFACE = "transformers' attention interface"
_SAME = {aten.alias.default, aten.clone.default, aten.detach.default, aten.lift_fresh.default}
# These get the dense mask: ops, and functions that torch splits into ops on the values.
_DENSE_OPS = {aten.expand.default, aten.repeat.default, aten.select.int, aten.index.Tensor}
_DENSE_FUNCTIONS = {F.scaled_dot_product_attention, torch.repeat_interleave, Tensor.repeat_interleave}


class NotServed(ValueError):
    """A call or a model that lckernels' attention does not support: the result would differ."""


class Mask(Tensor):
    """A tensor with the shape of a 4-D mask and no values; attention functions read its attributes.

    Its shape, dtype, device and other metadata are those of a bool mask. Copies, views of the same shape,
    moves to a device and casts are descriptors; a cast to any dtype stays bool, so `mask.float()` is a bool
    mask. scaled_dot_product_attention, cat, repeat, expand and indexing get the dense mask. Any other op
    raises NotServed.
    """

    @classmethod
    def of_shape(cls, *shape: int, device: torch.device) -> Self:
        """A descriptor of this shape."""
        return Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device, storage_size=0)

    def dense(self) -> Tensor:
        """The dense mask, (batch, 1, seqlen_q, seqlen_k) bool, True where a query sees a key."""
        raise NotServed(
            f"model: its attention does not go through {INTERFACE}; it got a {type(self).__name__}"
        )

    def sliced(self, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
        """A slice of one dimension: a descriptor where one can describe it, else a dense mask."""
        return aten.slice(self.dense(), dim, start, end, step)

    def to_device(self, device: torch.device) -> Self:
        """The descriptor on another device."""
        return self.same()

    def same(self) -> Self:
        """A descriptor with the same attributes."""
        return _rebuild(type(self), tuple(self.shape), self.device, self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: int) -> tuple[Callable, tuple]:
        return _rebuild, (type(self), tuple(self.shape), self.device, self.__dict__)

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DENSE_FUNCTIONS:
            return func(*_dense(args), **{name: _dense(x) for name, x in kwargs.items()})
        if func is Tensor.__setitem__:  # below it torch writes to a part, which may be a dense copy
            raise _computes("setitem")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        mask, kwargs = args[0] if args else None, kwargs or {}
        if isinstance(mask, Mask):
            if func in _SAME or (func is aten.view.default and tuple(args[1]) == tuple(mask.shape)):
                return mask.same()
            if func is aten._to_copy.default:
                return mask.to_device(torch.device(kwargs.get("device") or mask.device))
            if func is aten.slice.Tensor:
                return mask.sliced(*args[1:])
        # A tensor of the model's own may hold numbers to add, where 0 means visible.
        joins = func is aten.cat.default and all(isinstance(x, Mask) for x in mask)
        if joins or (func in _DENSE_OPS and isinstance(mask, Mask)):
            return func(*_dense(args), **kwargs)
        raise _computes(func.overloadpacket.__name__)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}"


def _computes(name: str) -> NotServed:
    return NotServed(f"model: it computes with its attention mask itself ({name}), outside {INTERFACE}")


def _rebuild(cls: type[Mask], shape: tuple[int, ...], device: torch.device, values: dict[str, Any]) -> Mask:
    mask = cls.of_shape(*shape, device=device)
    mask.__dict__.update(values)
    return mask


def _dense(x: Any) -> Any:
    if isinstance(x, Mask):
        return x.dense()
    return type(x)(_dense(y) for y in x) if type(x) in (list, tuple) else x
