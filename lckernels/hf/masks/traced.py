"""Mask descriptors under torch.compile, where closures cannot be read."""

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.readers import AND
from lckernels.hf.private import sdpa_mask
from lckernels.options import Layout


def traced_mask(
    shape: tuple[int, ...],
    device: torch.device,
    visible: Layout,
    mask_function: Callable,
    attention_mask: Tensor | None,
    kv_offset: int,
    use_vmap: bool,
    options: dict[str, Any],
) -> KeyMask | None:
    """A KeyMask without a window, which the layer's kind completes; None for an unsupported mask function."""
    if use_vmap or not isinstance(mask_function, FunctionType) or mask_function.__qualname__ != AND:
        return None
    batch, _, seqlen_q, seqlen_k = shape
    causal = "allow_is_bidirectional_skip" not in options
    whole = seqlen_q == seqlen_k and isinstance(visible.offset, int) and visible.offset == kv_offset == 0
    padding = 0 if attention_mask is None else (attention_mask.cumsum(-1) == 0).sum(-1)
    visible = replace(visible, chunk_origin=padding - kv_offset)
    if attention_mask is None and whole and causal and not options.get("allow_is_causal_skip", True):
        # Packed sequences arrive so; any other mask with these options is one segment.
        visible = replace(visible, segment_ids=_segments(mask_function, batch, seqlen_k, device))
    # The compiler drops it if no layer reads it.
    dense = sdpa_mask(
        batch, seqlen_q, seqlen_k, visible.offset + kv_offset, kv_offset, mask_function=mask_function,
        attention_mask=attention_mask, allow_is_causal_skip=False, device=device,
    )  # fmt: skip
    return KeyMask.create(
        shape, device, None, visible, dense_mask=dense, local_size=options.get("local_size"), causal=causal
    )


def _segments(mask_function: Callable, batch: int, seqlen: int, device: torch.device) -> Tensor:
    """Segment ids, (batch, seqlen): a segment begins where a token does not see the token before it.

    Raises at run time where a token sees the token after it: that is not a causal mask of packed sequences.
    """
    at = torch.arange(seqlen, device=device)[None]
    rows, head = torch.arange(batch, device=device)[:, None], at.new_zeros(1, 1)
    sees = mask_function(rows, head, at[:, 1:], at[:, :-1]).expand(batch, seqlen - 1)
    ahead = mask_function(rows, head, at[:, :-1], at[:, 1:])
    message = "attn_implementation='lckernels': a mask that sees ahead cannot be compiled; run it uncompiled"
    torch._assert_async(~ahead.any(), message)
    return F.pad(~sees, (1, 0)).cumsum(-1)
