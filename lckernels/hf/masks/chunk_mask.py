"""The mask descriptor of chunked_attention: a plan of chunks."""

from collections.abc import Callable

from torch import Tensor

from lckernels.hf.masks.descriptor import Mask
from lckernels.options import ExtraTokens
from lckernels.plan import Plan


class ChunkMask(Mask):
    """One row of tokens, each of which sees its chunks: total_len of a plan, then each chunk's extra tokens.

    Attributes:
        plan: the chunks, on the row's device.
        weights: as in chunked_attention, on the row's device.
        num_extra: number of extra tokens of each chunk.
        on_layer: called after each attention layer.
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
