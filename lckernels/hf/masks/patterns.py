"""What a mask function of transformers describes: window, chunks and segments."""

from dataclasses import dataclass

from torch import Tensor

from lckernels.hf.masks.kinds import FULL, Window


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which keys a query sees, without padding, in slots of the whole cache.

    Attributes:
        window: as in windowed_attention.
        chunk: as in Layout.
        chunk_origin: as in Layout.
        segment_ids: as in Layout, (batch, seqlen).
        positions: (batch, seqlen) positions of packed sequences, if window and chunk count positions and not
            slots.
    """

    window: Window = FULL
    chunk: int = 0
    chunk_origin: int | Tensor = 0
    segment_ids: Tensor | None = None
    positions: Tensor | None = None

    def __and__(self, other: "Pattern") -> "Pattern":
        """The keys that both patterns show: the narrower bounds; chunk, segments, positions of either."""
        sides = zip(self.window, other.window, strict=True)
        window = tuple(min((x for x in pair if x >= 0), default=-1) for pair in sides)
        chunked = self if self.chunk else other
        return Pattern(
            window, chunked.chunk, chunked.chunk_origin,
            other.segment_ids if self.segment_ids is None else self.segment_ids,
            other.positions if self.positions is None else self.positions,
        )  # fmt: skip


def two_sided(left: int, right: int) -> Pattern | None:
    """Keys at a distance < `left` before the query and < `right` after it; None if there are none."""
    return Pattern((left - 1, max(right - 1, 0))) if left > 0 else None


def window_before(width: int) -> Pattern | None:
    """`width` keys up to the query's position, and all after it; None if there are none."""
    return Pattern((width - 1, -1)) if width > 0 else None
