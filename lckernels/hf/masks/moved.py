"""Padding between PEFT's virtual tokens and the tokens of a row, moved before both.

PEFT puts virtual tokens before a row that is padded on the left: virtual tokens, padding, tokens. A window
and sink tokens count keys. With the padding in between, the row's first tokens would be no sinks and virtual
tokens would leave the window sooner; with the padding first, both are as in the row alone.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lckernels.options import Layout


class Moved(NamedTuple):
    """The order of keys and queries with padding first, as indices.

    Attributes:
        keys: (batch, seqlen_k).
        queries: (batch, seqlen_q); None for one query, which stays the last.
    """

    keys: Tensor
    queries: Tensor | None

    def inputs(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tensors (batch, heads, seqlen, dim) in this order."""
        keys = self.keys[:, None, :, None]
        if self.queries is not None:
            query = query.take_along_dim(self.queries[:, None, :, None], 2)
        return query, key.take_along_dim(keys, 2), value.take_along_dim(keys, 2)

    def output(self, out: Tensor) -> Tensor:
        """The result (batch, seqlen_q, heads, dim) in the order before."""
        if self.queries is None:
            return out
        return out.take_along_dim(self.queries.argsort(1)[:, :, None, None], 1)


def with_padding_first(layout: Layout, seqlen_q: int) -> tuple[Layout, Moved]:
    """The layout of a kv_mask and an offset once padding is first, and the order of keys and queries.

    Invalid keys behind the last valid one stay there. No value is read on the host.
    """
    valid, device = layout.kv_mask, layout.kv_mask.device
    slots = torch.arange(valid.shape[1], device=device)
    kv_end = torch.where(valid, slots + 1, 0).amax(1)
    part = torch.where(slots < kv_end[:, None], valid.to(torch.uint8), 2)  # padding, tokens, free slots
    queries = None
    if seqlen_q > 1:
        of_queries = part[:, torch.arange(seqlen_q, device=device) + layout.offset]
        queries = of_queries.argsort(dim=1, stable=True)
    moved = Moved(part.argsort(dim=1, stable=True), queries)
    return replace(layout, kv_start=kv_end - valid.sum(1), kv_end=kv_end, kv_mask=None), moved
