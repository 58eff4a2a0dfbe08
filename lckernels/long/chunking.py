"""The chunks of a padded batch of documents, and where the chunks' tokens and outputs are."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor

from lckernels.long.sizes import Chunking
from lckernels.plan import Plan
from lckernels.planner import plan_segments
from lckernels.segments import Column

# Rows of unequal length share a micro-batch while at most this part of it is padding.
MAX_PADDING = 1 / 8


class Rows(Enum):
    """Which rows a micro-batch may hold, so that the model returns for each the states it has alone."""

    ANY = "rows of any lengths, padded"
    EQUAL = "rows of one length"
    ALONE = "one row"


@dataclass(frozen=True, eq=False)
class Chunks:
    """The chunks of a batch, longest first, and the positions of their outputs, all documents packed.

    Attributes:
        segments: (num_segments, 8) int64, columns as in `plan.Column`; special tokens included.
        cu_seqlens: (num_documents + 1,) int64, where each document begins in the packed output.
        widths: tokens of each chunk.
        index: (num_chunks, chunk_len) int64, the entry of the flattened batch that each column reads. Entries
            from num_entries on are the prefix; num_entries + num_prefix is padding.
    """

    segments: Tensor
    cu_seqlens: Tensor
    widths: list[int]
    index: Tensor

    @property
    def num_chunks(self) -> int:
        return self.index.shape[0]

    @property
    def num_documents(self) -> int:
        return len(self.cu_seqlens) - 1

    @property
    def chunk_len(self) -> int:
        """Tokens of the longest chunk."""
        return self.index.shape[1]

    @property
    def total_len(self) -> int:
        return int(self.cu_seqlens[-1])

    @property
    def num_tokens(self) -> int:
        """Tokens read: those of all chunks."""
        return sum(self.widths)

    @cached_property
    def plan(self) -> Plan:
        """The validated plan, built at first use."""
        return Plan.from_segments(
            self.segments,
            num_chunks=self.num_chunks,
            chunk_len=self.chunk_len,
            total_len=self.total_len,
            cu_seqlens=self.cu_seqlens,
        )


def chunk_documents(
    first: Tensor,
    lengths: Tensor,
    num_entries: int,
    chunking: Chunking,
    boundaries: Sequence[Sequence[int]] | None = None,
) -> Chunks:
    """The chunks of the documents in a flattened batch.

    Args:
        first: (num_documents,) int64 on the CPU, the entry of the flattened batch at which each begins.
        lengths: (num_documents,) int64 on the CPU, tokens of each, special tokens included.
        num_entries: length of the flattened batch.
        chunking: sizes and rule.
        boundaries: for the rule "sentence", the offsets in each document's content at which a chunk's kept
            part may end.
    """
    lead, trail = chunking.num_leading, chunking.num_trailing
    content_col = lead + chunking.num_prefix
    row_document, row_offset, row_content, content_segments = _content_rows(lengths, chunking, boundaries)
    num_chunks = len(row_document)
    widths = row_content + content_col + trail

    # Longest first: a micro-batch is a range of rows of nearly equal width.
    order = widths.argsort(descending=True, stable=True)
    new_row = torch.empty_like(order).scatter_(0, order, torch.arange(num_chunks, device="cpu"))
    content_segments[:, Column.ROW] = new_row[content_segments[:, Column.ROW]]
    ends = lengths.cumsum(0)
    documents = torch.arange(len(lengths), device="cpu")
    last_row = torch.searchsorted(row_document, documents, right=True) - 1
    first_row = torch.searchsorted(row_document, documents)
    trailing_col = content_col + row_content[last_row]
    segments = [content_segments]
    if lead:
        segments.append(_special_segments(new_row[first_row], torch.zeros_like(ends), ends - lengths, lead))
    if trail:
        segments.append(_special_segments(new_row[last_row], trailing_col, ends - trail, trail))

    content_end = (content_col + row_content)[order, None]
    base = first[row_document][order, None]
    column = torch.arange(int(widths.max()), device="cpu")
    index = base + lead + row_offset[order, None] + (column - content_col)
    index = torch.where(column < content_col, num_entries + (column - lead), index)
    index = torch.where(column < lead, base + column, index)
    tail = base + lengths[row_document][order, None] - trail + (column - content_end)
    index = torch.where(column >= content_end, tail, index)
    index = torch.where(column >= content_end + trail, num_entries + chunking.num_prefix, index)
    return Chunks(
        segments=torch.cat(segments),
        cu_seqlens=torch.cat([ends.new_zeros(1), ends]),
        widths=widths[order].tolist(),
        index=index,
    )


def micro_batches(widths: list[int], max_tokens: int, rows: Rows = Rows.ANY) -> list[tuple[int, int]]:
    """Half-open ranges of rows of falling width, one micro-batch each.

    A micro-batch is one row, or at most max_tokens tokens of which at most MAX_PADDING is padding.

    Args:
        widths: tokens of each row.
        max_tokens: bound on the tokens of a micro-batch of several rows.
        rows: which rows a micro-batch may hold.
    """
    max_tokens = 0 if rows is Rows.ALONE else max_tokens
    max_padding = MAX_PADDING if rows is Rows.ANY else 0
    ranges, start, padding = [], 0, 0
    for row, width in enumerate(widths):
        tokens = (row + 1 - start) * widths[start]
        padding += widths[start] - width
        if row > start and (tokens > max_tokens or padding > max_padding * tokens):
            ranges.append((start, row))
            start, padding = row, 0
    return [*ranges, (start, len(widths))]


def _content_rows(
    lengths: Tensor, chunking: Chunking, boundaries: Sequence[Sequence[int]] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row's document, offset in that document's content and content length, in document order.

    The fourth result is segments (num_segments, 8): the content's positions in the packed output.
    """
    content = lengths - chunking.num_special
    filled = (content > 0).nonzero().squeeze(1)
    empty = (content == 0).nonzero().squeeze(1)
    segments = torch.zeros(0, 8, dtype=torch.int64, device="cpu")
    document = filled[:0]
    if len(filled):
        planned = plan_segments(
            content[filled].tolist(),
            chunking.chunk_len,
            chunking.overlap,
            rule=chunking.rule,
            boundaries=None if boundaries is None else [boundaries[i] for i in filled.tolist()],
            num_leading=chunking.num_leading + chunking.num_prefix,
            num_trailing=chunking.num_trailing,
        )
        segments = planned.segments.long()
        cu_seqlens = torch.tensor(planned.cu_seqlens, device="cpu")
        index = torch.searchsorted(cu_seqlens, segments[:, Column.START].contiguous(), right=True) - 1
        document = filled[index]
        segments[:, Column.START] -= cu_seqlens[index]
    # A document of special tokens alone is one row without content.
    row_document, order = torch.cat([document, empty]).sort(stable=True)
    none = empty.new_zeros(len(empty))
    row_offset = torch.cat([segments[:, Column.START], none])[order]
    row_content = torch.cat([segments[:, Column.LENGTH], none])[order]
    rows = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device="cpu"))
    segments[:, Column.ROW] = rows[: len(segments)]
    segments[:, Column.START] += (lengths.cumsum(0) - lengths)[document] + chunking.num_leading
    return row_document, row_offset, row_content, segments


def _special_segments(row: Tensor, col: Tensor, start: Tensor, length: int) -> Tensor:
    """(num_documents, 8): `length` special tokens per document, kept whole."""
    size = torch.full_like(row, length)
    one = torch.ones_like(row)
    return torch.stack([row, col, start, size, torch.zeros_like(row), size, one, one], dim=1)
