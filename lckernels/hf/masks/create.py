"""transformers' mask function: from its arguments to a mask descriptor."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.kept import KeptOffset, evicted_tokens, kept_keys
from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.kinds import CAUSAL, FULL, Window
from lckernels.hf.masks.padding import padding_layout, valid_keys
from lckernels.hf.masks.patterns import Pattern
from lckernels.hf.masks.readers import read_pattern
from lckernels.hf.masks.traced import traced_mask
from lckernels.hf.private import bidirectional_mask_function, causal_mask_function, sdpa_mask
from lckernels.hf.warn import warn_once
from lckernels.options import Layout


def create_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor:
    """A mask as transformers' AttentionMaskInterface calls it.

    Args:
        batch_size: number of rows.
        q_length: number of queries.
        kv_length: number of keys.
        q_offset: cache slot of the first query, an int or a 0-d tensor.
        kv_offset: cache slot of the first key.
        mask_function: (batch, head, query, key) -> bool.
        attention_mask: (batch, any length) bool, True for tokens; None: no padding.
        use_vmap: whether mask_function supports no broadcasting.
        device: of the mask.
        **options: passed to transformers' sdpa_mask where the mask is dense.

    Returns:
        A KeyMask. For an unsupported mask function the dense mask, (batch, 1, q_length, kv_length) bool, with
        a warning.
    """
    arguments = (
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, use_vmap,
    )  # fmt: skip
    mask = key_mask(*arguments, device, **options)
    if mask is not None:
        # Only layers whose cache has sink tokens read it.
        rolls = isinstance(kv_offset, KeptOffset) or not kv_offset
        if rolls and not torch.compiler.is_dynamo_compiling():
            mask.evicted = evicted_tokens(attention_mask, kv_offset)
        return mask
    if isinstance(kv_offset, KeptOffset):
        raise NotServed(
            f"model: it uses {describe(mask_function, options)}, which a KV cache with sink tokens and a "
            "window does not support"
        )
    warn_once(f"{describe(mask_function, options)} is not supported and runs as a dense mask")
    options = {**options, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        use_vmap=use_vmap, device=device, **options,
    )  # fmt: skip


def key_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> KeyMask | None:
    """The KeyMask of `create_mask`'s arguments; None for an unsupported mask. No tensor is N x N."""
    if attention_mask is not None and (attention_mask.ndim != 2 or attention_mask.shape[0] != batch_size):
        return None
    shape, device = (batch_size, 1, q_length, kv_length), torch.device(device)
    offset = q_offset - kv_offset
    keys_of = kept_keys if isinstance(kv_offset, KeptOffset) else valid_keys
    padding = padding_layout(keys_of(attention_mask, kv_length, kv_offset))
    visible = replace(padding, offset=offset)
    if mask_function is causal_mask_function:
        return KeyMask.create(shape, device, CAUSAL, visible)
    if mask_function is bidirectional_mask_function:
        return KeyMask.create(shape, device, FULL, visible)
    if torch.compiler.is_dynamo_compiling():  # closures cannot be read
        return traced_mask(
            shape, device, visible, mask_function, attention_mask, kv_offset, use_vmap, options
        )
    pattern = read_pattern(mask_function)
    packed = None if pattern is None else _layout(pattern)
    if packed is None:
        return None
    ids = packed.segment_ids
    if ids is not None and (q_length != kv_length or not isinstance(offset, int) or offset):
        return None
    visible = replace(
        visible,
        segment_ids=None if ids is None else ids.to(device).expand(batch_size, kv_length),
        chunk=packed.chunk,
        # Without chunks a constant: torch.compile compiles a layer again for another number.
        chunk_origin=packed.chunk_origin - kv_offset if packed.chunk else 0,
    )
    return KeyMask.create(shape, device, pattern.window, visible)


def _layout(pattern: Pattern) -> Layout | None:
    """Chunks and segments of a pattern; chunks of positions become segments. None: positions, no segments."""
    ids, positions = pattern.segment_ids, pattern.positions
    if positions is None:
        return Layout(segment_ids=ids, chunk=pattern.chunk, chunk_origin=pattern.chunk_origin)
    if ids is None:
        return None
    if pattern.chunk:
        origin = pattern.chunk_origin
        origin = origin[:, None] if isinstance(origin, Tensor) else origin
        chunks = (positions - origin) // pattern.chunk
        new = F.pad((ids.diff() != 0) | (chunks.diff() != 0), (1, 0))
        ids = new.cumsum(-1)
    return Layout(segment_ids=ids)


def describe(mask_function: Callable | None, options: dict[str, Any]) -> str:
    """An unsupported mask function in words."""
    name = getattr(mask_function, "__qualname__", "a function").partition(".")[0]
    size = options.get("local_size")
    return f"a mask of its own ({name})" if size is None else f"a mask of its own ({name}, local_size {size})"


def mask_of_keys(valid: Tensor, q_length: int, window: Window = FULL) -> KeyMask:
    """A mask in which every query sees the valid keys, (batch, kv_length) bool, of its window."""
    shape = (valid.shape[0], 1, q_length, valid.shape[1])
    visible = replace(padding_layout(valid), offset=0)
    return KeyMask.create(shape, valid.device, window, visible)
