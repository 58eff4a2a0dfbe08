"""PEFT's virtual tokens under a window: how many a call has, and what a window hides of them."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from lckernels.hf.masks.key_mask import KeyMask
from lckernels.hf.masks.kinds import FULL, Kind
from lckernels.hf.masks.padding import has_values
from lckernels.hf.settings import LayerSettings
from lckernels.hf.warn import warn_once
from lckernels.options import Layout
from lckernels.prompts import num_virtual_tokens, prompt_of_call


def virtual_tokens_in(model: nn.Module) -> int:
    """The virtual tokens of PEFT's active adapter in a model, which may be in a wrapper; 0 without any."""
    return max((num_virtual_tokens(m) for m in model.modules() if _is_peft(m)), default=0)


def _is_peft(module: nn.Module) -> bool:
    return hasattr(type(module), "active_peft_config")


def under_window(count: int, sink_tokens: int) -> str:
    """What a window of `patch` does to virtual tokens, in words."""
    given = f"{count} virtual tokens of PEFT before each row, sink_tokens is {sink_tokens}"
    if sink_tokens >= count:
        return f"{given}: all of them stay visible beside the window"
    return (
        f"{given}: {count - sink_tokens} of them are seen within the window alone; "
        f"pass sink_tokens={count} or more to keep them visible"
    )


def under_own_windows(count: int, layers: int) -> str:
    """What windows of the model's own do to virtual tokens, in words."""
    return (
        f"{count} virtual tokens of PEFT before each row: {layers} layers have a window of their own, which "
        "hides them from tokens beyond it, also without lckernels; sink_tokens does not change these layers"
    )


def virtual_tokens_of_call(mask: object, settings: LayerSettings) -> int:
    """The virtual tokens of a call of a layer that has a window of `patch`; 0 without any.

    They are those of the PEFT model that is being called; where no calling function shows it (torch.compile,
    a recomputed layer), those of the model at `patch`. Stored on the mask, which the layers share.
    """
    if torch.compiler.is_dynamo_compiling():
        return settings.virtual_tokens
    known = mask.virtual_tokens if isinstance(mask, KeyMask) else None
    if known is None:
        known = prompt_of_call()[0]
        if known > max(settings.sink_tokens, settings.virtual_tokens):
            warn_once(under_window(known, settings.sink_tokens))  # the report of `patch` could not have it
        known = known or settings.virtual_tokens
        if isinstance(mask, KeyMask):
            mask.virtual_tokens = known
    return known


def keeps_padding(layers: Mapping[int, LayerSettings], attention_mask: object) -> bool:
    """Whether a KV cache keeps every key, since its first slots are not the sink tokens of every row.

    So it is in rows with padding behind virtual tokens, unless these alone are sink tokens. Off the CPU,
    where the values are not read, any mask may have padding.

    Args:
        layers: the layers of the cache that have a window of `patch`, by their number.
        attention_mask: of the call, (batch, seqlen), or None.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
        return False
    settings = next(iter(layers.values()))
    count = prompt_of_call()[0] or settings.virtual_tokens
    if not count or count == settings.sink_tokens:
        return False
    return not has_values(attention_mask) or not bool(attention_mask.all())


def with_prefix_keys(
    kind: Kind, layout: Layout, count: int, sizes: tuple[int, ...], settings: LayerSettings
) -> tuple[Kind, Layout]:
    """Kind and layout of a bidirectional layer with `count` keys of prefix tuning before its own.

    transformers' mask has no offset there, and queries and keys of other numbers look like cross attention.
    """
    _, _, seqlen_q, seqlen_k = sizes
    is_self = not settings.cross and settings.kind == Kind(FULL) and kind.window == FULL and kind.cross
    if not is_self or seqlen_k - seqlen_q != count:
        return kind, layout
    return settings.kind, replace(layout, offset=count)
