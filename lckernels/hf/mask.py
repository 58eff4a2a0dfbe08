"""What takes the place of an N x N mask in transformers: a few numbers that say which keys a query sees."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from lckernels.options import ExtraTokens, Layout
from lckernels.plan import Plan

_PROPERTIES = (
    "shape", "ndim", "device", "dtype", "layout", "requires_grad", "grad", "is_leaf", "is_nested",
    "is_sparse", "is_cuda", "is_meta",
)  # fmt: skip
_ASKED = {
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES),
    *(Tensor.dim, Tensor.size, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.untyped_storage),
    Tensor.requires_grad.__set__,  # a reentrant checkpoint sets what is there
}
_WAY = "transformers' attention interface"
_UNCHANGED = {Tensor.to, Tensor.contiguous, Tensor.clone, Tensor.detach}


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
            f"model: its attention does not go through {_WAY}, so a {type(self).__name__} is nothing to it"
        )

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _UNCHANGED and isinstance(args[0], Mask):
            return args[0]
        if func is F.scaled_dot_product_attention:
            args = tuple(x.dense() if isinstance(x, Mask) else x for x in args)
            kwargs = {name: x.dense() if isinstance(x, Mask) else x for name, x in kwargs.items()}
            return func(*args, **kwargs)
        if func not in _ASKED:
            name = getattr(func, "__name__", func)
            raise NotServed(f"model: it computes with its attention mask itself ({name}), outside {_WAY}")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self.shape)}"


class KeyMask(Mask):
    """Every query sees the valid keys of its row; `where` has kv_start and kv_end, kv_mask, or none."""

    where: Layout

    def dense(self) -> Tensor:
        batch, _, seqlen_q, seqlen_k = self.shape
        j = torch.arange(seqlen_k, device=self.device)
        seen = torch.ones(batch, seqlen_k, dtype=torch.bool, device=self.device)
        if self.where.kv_mask is not None:
            seen = self.where.kv_mask
        elif self.where.kv_start is not None:
            seen = (j >= self.where.kv_start[:, None]) & (j < self.where.kv_end[:, None])
        return seen[:, None, None, :].expand(batch, 1, seqlen_q, seqlen_k)


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


def key_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor,
    kv_offset: int,
    mask_function: Callable | None,
    attention_mask: Tensor | None,
    use_vmap: bool,
    device: torch.device | str,
) -> KeyMask | None:
    """The mask of padding alone, None where the model asks for another; arguments as of `make_mask`."""
    fits = attention_mask is None or tuple(attention_mask.shape) == (batch_size, kv_length)
    offsets = isinstance(q_offset, int) and (q_offset, kv_offset) == (0, 0)
    if mask_function is not bidirectional_mask_function or use_vmap or not fits or not offsets:
        return None
    mask = KeyMask.of_shape(batch_size, 1, q_length, kv_length, device=torch.device(device))
    mask.where = padding_layout(attention_mask)
    return mask


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = None,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor | None:
    """transformers' mask function: a KeyMask for padding alone, for all else the dense mask of sdpa.

    Arguments as transformers' AttentionMaskInterface gives them; attention_mask (batch, kv_length) bool.
    """
    mask = key_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, use_vmap, device
    )
    if mask is not None:
        return mask
    _say_dense(mask_kind(mask_function, options))
    given = {} if mask_function is None else {"mask_function": mask_function}
    return sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, attention_mask=attention_mask,
        use_vmap=use_vmap, device=device, **given, **options,
    )  # fmt: skip


def mask_kind(mask_function: Callable | None, options: dict[str, Any]) -> str:
    """What a model asked transformers' mask function for, in words."""
    if options.get("local_size") is not None:
        return "a sliding window"
    if mask_function is causal_mask_function:
        return "a causal mask"
    return getattr(mask_function, "__qualname__", str(mask_function))


@cache
def _say_dense(kind: str) -> None:
    warnings.warn(
        f"attn_implementation='lckernels' knows no mask but padding; {kind} runs as torch's dense attention",
        stacklevel=3,
    )
