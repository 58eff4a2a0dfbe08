"""The base class of mask descriptors."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Properties that compute; all other properties return metadata.
_COMPUTED = {getattr(Tensor, name).__get__ for name in ("T", "H", "mT", "mH", "real", "imag", "data")}
_METADATA = {
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.untyped_storage),
    *(Tensor._is_view, Tensor.storage_offset, Tensor.element_size, Tensor.is_conj, Tensor.is_neg),
    Tensor.requires_grad.__set__,  # a reentrant checkpoint sets the value that is there
}
INTERFACE = "transformers' attention interface"
_IDENTITIES = {Tensor.contiguous, Tensor.clone, Tensor.detach}
# Functions that build a mask from masks; they get the dense mask.
_JOINS = {torch.cat, torch.concat}
_REPEATS = {Tensor.expand, Tensor.repeat, Tensor.repeat_interleave}


class NotServed(ValueError):
    """A call or a model that lckernels' attention does not support: the result would differ."""


class Mask(Tensor):
    """A tensor with the shape of a 4-D mask and one byte of memory; attention functions read its attributes.

    torch's scaled_dot_product_attention gets the dense mask. Any other arithmetic raises NotServed.
    """

    @classmethod
    def of_shape(cls, *shape: int, device: torch.device) -> "Mask":
        """A descriptor of this shape."""
        return torch.zeros((), dtype=torch.bool, device=device).expand(shape).as_subclass(cls)

    def dense(self) -> Tensor:
        """The dense mask, (batch, 1, seqlen_q, seqlen_k) bool, True where a query sees a key."""
        raise NotServed(
            f"model: its attention does not go through {INTERFACE}; it got a {type(self).__name__}"
        )

    def sliced(self, index: Any) -> Tensor:
        """`mask[index]`: a descriptor where one can describe it, else a dense mask."""
        return self.dense()[index]

    def to_device(self, device: torch.device) -> "Mask":
        """The descriptor on another device."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mask":
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _IDENTITIES and isinstance(args[0], Mask):
            return args[0]
        if func is Tensor.to and isinstance(args[0], Mask):
            return args[0].to_device(_device(args[0], *args[1:], *kwargs.values()))
        if func is Tensor.__getitem__ and isinstance(args[0], Mask):
            return args[0].sliced(args[1])
        # A tensor of the model's own may hold numbers to add, where 0 means visible.
        joins = func in _JOINS and args and all(isinstance(x, Mask) for x in args[0])
        if func is F.scaled_dot_product_attention or joins or func in _REPEATS:
            return func(*_dense(args), **{name: _dense(x) for name, x in kwargs.items()})
        if not (func in _METADATA or (func.__name__ == "__get__" and func not in _COMPUTED)):
            name = getattr(func, "__name__", func)
            raise NotServed(
                f"model: it computes with its attention mask itself ({name}), outside {INTERFACE}"
            )
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}"


def _device(mask: Mask, *arguments: Any) -> torch.device:
    """The device in the arguments of `Tensor.to`; default: the mask's."""
    for x in arguments:
        if isinstance(x, torch.device | str):
            return torch.device(x)
        if isinstance(x, Tensor):
            return x.device
    return mask.device


def _dense(x: Any) -> Any:
    if isinstance(x, Mask):
        return x.dense()
    return type(x)(_dense(y) for y in x) if type(x) in (list, tuple) else x
