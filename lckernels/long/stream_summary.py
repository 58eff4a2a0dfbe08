"""The states of a growing sequence's first tokens, which every chunk reads: running sums over the chunks."""

import torch
from torch import Tensor

from lckernels.long.chunking import Chunks
from lckernels.segments import Column


class StreamSummary:
    """The leading states of a sequence that grows, from the chunks that are left and sums over the others.

    Args:
        rule: "mean" or "first", as `summary` of LongEncoder.
        num_leading: special tokens at the beginning.
    """

    def __init__(self, rule: str, num_leading: int) -> None:
        self.rule, self.num_leading = rule, num_leading
        self._first: Tensor | None = None  # of the first chunk, once that was dropped
        self._sum: Tensor | None = None  # over the chunks that were dropped, float64
        self._weight = 0
        self._kept_until = 0  # content before the first chunk is kept by those that were dropped

    def add(self, chunks: Chunks, states: dict[int, Tensor], drop: int, num_dropped: int) -> Tensor:
        """The leading states (num_leading, dim) as if the sequence ended with these chunks.

        Args:
            chunks: those that were not dropped before, and later ones.
            states: (chunk_len, dim) of each, by number.
            drop: how many of them, from the first on, are in no later call.
            num_dropped: how much content is before the chunk with that number.
        """
        leading = {n: x[: self.num_leading] for n, x in states.items()}
        first = leading[0] if self._first is None else self._first
        single = chunks.num_chunks == 1 and self._first is None
        ends = self._ends_of_kept(chunks)
        weights = [max(end - begin, 1) for begin, end in zip([self._kept_until, *ends], ends, strict=False)]
        total, weight = self._sum, self._weight
        for n, share in enumerate(weights):
            part = share * leading[n].double()
            total, weight = part if total is None else total + part, weight + share
            if n + 1 == drop:
                self._sum, self._weight = total, weight
        if drop:
            self._first = first.clone()
            self._kept_until = ends[drop - 1] - num_dropped
        if self.rule == "first" or single:
            return first
        return (total / weight).to(first.dtype)

    def _ends_of_kept(self, chunks: Chunks) -> list[int]:
        """Where the content that each chunk keeps ends, by number; the special tokens are no content."""
        segments = chunks.segments[: chunks.num_chunks]
        ends = torch.empty(chunks.num_chunks, dtype=torch.int64, device="cpu")
        ends[segments[:, Column.ROW]] = segments[:, Column.START] + segments[:, Column.KEEP_END]
        return (ends - self.num_leading).tolist()
