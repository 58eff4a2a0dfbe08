"""The keys that a rolling cache keeps of a sequence: its first tokens and the last ones."""

import torch
from torch import Tensor

from lckernels.hf.masks.padding import has_values


class KeptOffset(int):
    """The number of keys that a rolling cache has evicted, as transformers' `kv_offset`.

    Key j of the cache is slot j + offset of the sequence, except for the first `sink_tokens` keys: those are
    the row's own first tokens, or as many of them as were evicted, before the next slot.

    Attributes:
        sink_tokens: number of first tokens of a sequence that the cache keeps.
    """

    sink_tokens: int

    def __new__(cls, offset: int, sink_tokens: int) -> "KeptOffset":
        kept = super().__new__(cls, offset)
        kept.sink_tokens = sink_tokens
        return kept


def first_tokens(attention_mask: Tensor) -> Tensor | None:
    """The slot of each row's first token, (batch,) int64; None if every row is known to begin with one.

    The values are compared on a CPU alone, outside torch.compile.

    Args:
        attention_mask: (batch, seqlen) bool or integer; a row without a token begins after its last slot.
    """
    valid = attention_mask != 0
    first = torch.where(valid.any(1), valid.to(torch.uint8).argmax(1), valid.shape[1])
    return None if has_values(first) and not bool(first.any()) else first


def sink_slots(first: Tensor, num_evicted: int, sink_tokens: int) -> Tensor:
    """The slots that the first `sink_tokens` keys of the cache are, (batch, sink_tokens).

    Args:
        first: slot of each row's first token, (batch,).
        num_evicted: keys that the cache has evicted.
        sink_tokens: as in KeptOffset.
    """
    return first.clamp(max=num_evicted)[:, None] + torch.arange(sink_tokens, device=first.device)


def kept_keys(attention_mask: Tensor | None, kv_length: int, offset: KeptOffset) -> Tensor | None:
    """The part of a 2-D mask for the keys of a rolling cache, (batch, kv_length) bool."""
    if attention_mask is None:
        return None
    sinks, end = offset.sink_tokens, offset + kv_length
    first = first_tokens(attention_mask[:, :end])
    valid = attention_mask[:, offset:end]
    if first is None or not offset:
        return torch.cat([attention_mask[:, :sinks], valid[:, sinks:]], dim=1) if offset else valid
    return torch.cat(
        [attention_mask.gather(1, sink_slots(first, int(offset), sinks)), valid[:, sinks:]], dim=1
    )


def evicted_tokens(attention_mask: Tensor | None, offset: int) -> int | Tensor:
    """Tokens of each row that a cache has evicted, an int or (batch,); padding is no token."""
    first = first_tokens(attention_mask) if attention_mask is not None and offset else None
    return offset if first is None else (offset - first).clamp(min=0)
