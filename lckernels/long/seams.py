"""Where chunks of a row meet, and how many such seams a row has by its length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.checks import bad
from lckernels.long.chunking import Chunks
from lckernels.long.sizes import Chunking
from lckernels.segments import Column


def seams(chunks: Chunks) -> tuple[Tensor, Tensor]:
    """The seams of all documents: after what each chunk keeps, except the last of its document.

    Returns:
        (num_seams,) int64 on the CPU each: the next position in the packed output, rising; the document.
    """
    # The content's segments come first; each chunk with content keeps some of it.
    content = chunks.segments[: int((chunks.kept > 0).sum())]
    content = content[content[:, Column.START].argsort()]
    start = content[:, Column.START].contiguous()
    document = torch.searchsorted(chunks.cu_seqlens, start, right=True) - 1
    is_seam = document[:-1] == document[1:]
    return (start + content[:, Column.KEEP_END])[:-1][is_seam], document[:-1][is_seam]


@dataclass(frozen=True)
class SeamCounts:
    """How many seams a row has by its length, for chunks of one chunking.

    Attributes:
        chunking: sizes and rule.
        num_leading: first tokens of a row that each chunk reads.
    """

    chunking: Chunking
    num_leading: int

    def of(self, lengths: Tensor) -> Tensor:
        """(batch,) int64 for rows of `lengths (batch,)` tokens, on their device."""
        sizes = self.chunking
        room = max(sizes.chunk_len - self.num_leading - sizes.num_prefix - sizes.num_trailing, 1)
        stride = room - min(sizes.overlap_of(room), room - 1)
        rest = (lengths - self.num_leading - sizes.num_trailing - room).clamp(min=0)
        return -(-rest // stride)


@dataclass(frozen=True)
class SeamRule:
    """How many seams each row has, from the mask of a batch and the number of columns that they add to it.

    A batch of `seqlen` columns has seqlen + added columns with its seams: those of the row with the most, or
    one more than that if rows do not contain the fixed prefix and would have as many with it.

    Attributes:
        counts: of rows as they are given; those of a fixed prefix begin with it.
        dropped: of rows that do not begin with the fixed prefix; None without one.
    """

    counts: SeamCounts
    dropped: SeamCounts | None

    def added(self, found: Tensor, lengths: Tensor) -> int:
        """The columns that the seams of a batch add.

        Args:
            found: (batch,) int64 on the CPU, the seams of each row.
            lengths: (batch,) int64 on the CPU, its tokens.

        Raises:
            ValueError: rows of several lengths, in which the first segments change the number of seams.
        """
        most = int(found.max())
        expected = self.counts.of(lengths)
        if (lengths == lengths[0]).all():
            expected = found[:1].expand_as(found)
        if torch.equal(found, expected):
            return most
        if self.dropped is not None:
            return max(most, int(expected.max()) + 1)
        row = int((found != expected).nonzero()[0])
        got = f"{int(found[row])} seams in row {row}, whose length gives {int(expected[row])}"
        allowed = (
            "in a batch, rows of two segments require joints=None; pass one row per call, or prefix=None"
        )
        raise bad("joints", got, allowed)

    def of_batch(self, lengths: Tensor, added: int) -> Tensor:
        """(batch,) int64, the seams of each row of a batch, on the device of its lengths.

        Args:
            lengths: (batch,) int64, the tokens of each row.
            added: the columns that the seams added.
        """
        counts = self.counts.of(lengths)
        if self.dropped is not None:
            counts = torch.where(counts.max() == added, counts, self.dropped.of(lengths))
        return torch.where((lengths == lengths[0]).all(), added, counts)
