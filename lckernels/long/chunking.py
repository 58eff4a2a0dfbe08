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
        num_leading: (num_documents,) int64, first tokens of each document that all its chunks read.
        documents: (num_chunks,) int64, the document of each chunk.
        kept: (num_chunks,) int64, the tokens of content that each chunk keeps by the rule.
    """

    segments: Tensor
    cu_seqlens: Tensor
    widths: list[int]
    index: Tensor
    num_leading: Tensor
    documents: Tensor
    kept: Tensor

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
    num_leading: Tensor | None = None,
    num_trailing: Tensor | None = None,
) -> Chunks:
    """The chunks of the documents in a flattened batch.

    Args:
        first: (num_documents,) int64 on the CPU, the entry of the flattened batch at which each begins.
        lengths: (num_documents,) int64 on the CPU, tokens of each, special tokens included.
        num_entries: length of the flattened batch.
        chunking: sizes and rule.
        boundaries: for the rule "sentence", the offsets in each document's content at which a chunk's kept
            part may end.
        num_leading: (num_documents,) int64, first tokens of each that all its chunks read. Default: those of
            `chunking`.
        num_trailing: (num_documents,) int64, last tokens, likewise.
    """
    if num_leading is None:
        num_leading = torch.full_like(lengths, chunking.num_leading)
    if num_trailing is None:
        num_trailing = torch.full_like(lengths, chunking.num_trailing)
    row_document, row_offset, row_content, content_segments = _content_rows(
        lengths, num_leading, num_trailing, chunking, boundaries
    )
    num_chunks = len(row_document)
    row_col = num_leading[row_document] + chunking.num_prefix  # where the content begins
    widths = row_content + row_col + num_trailing[row_document]

    # Longest first: a micro-batch is a range of rows of nearly equal width.
    order = widths.argsort(descending=True, stable=True)
    new_row = torch.empty_like(order).scatter_(0, order, torch.arange(num_chunks, device="cpu"))
    content_segments[:, Column.ROW] = new_row[content_segments[:, Column.ROW]]
    ends = lengths.cumsum(0)
    documents = torch.arange(len(lengths), device="cpu")
    last_row = torch.searchsorted(row_document, documents, right=True) - 1
    first_row = torch.searchsorted(row_document, documents)
    trailing_col = (row_col + row_content)[last_row]
    kept = torch.zeros(num_chunks, dtype=torch.int64, device="cpu")
    sizes = content_segments[:, Column.KEEP_END] - content_segments[:, Column.KEEP_START]
    kept[content_segments[:, Column.ROW]] = sizes
    segments = [content_segments]
    if num_leading.any():
        leading_col = torch.zeros_like(ends)
        segments.append(_special_segments(new_row[first_row], leading_col, ends - lengths, num_leading))
    if num_trailing.any():
        start = ends - num_trailing
        segments.append(_special_segments(new_row[last_row], trailing_col, start, num_trailing))

    content_col = row_col[order, None]
    content_end = content_col + row_content[order, None]
    lead, trail = (number[row_document][order, None] for number in (num_leading, num_trailing))
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
        num_leading=num_leading,
        documents=row_document[order],
        kept=kept,
    )


def micro_batches(
    widths: list[int], max_tokens: int, rows: Rows = Rows.ANY, borders: Sequence[int] = ()
) -> list[tuple[int, int]]:
    """Half-open ranges of rows of falling width, one micro-batch each.

    A micro-batch is one row, or at most max_tokens tokens of which at most MAX_PADDING is padding.

    Args:
        widths: tokens of each row.
        max_tokens: bound on the tokens of a micro-batch of several rows.
        rows: which rows a micro-batch may hold.
        borders: widths; a micro-batch has no rows on both sides of one.
    """
    max_tokens = 0 if rows is Rows.ALONE else max_tokens
    max_padding = MAX_PADDING if rows is Rows.ANY else 0
    ranges, start, padding = [], 0, 0
    for row, width in enumerate(widths):
        tokens = (row + 1 - start) * widths[start]
        padding += widths[start] - width
        crosses = any(width <= border < widths[start] for border in borders)
        if row > start and (tokens > max_tokens or padding > max_padding * tokens or crosses):
            ranges.append((start, row))
            start, padding = row, 0
    return [*ranges, (start, len(widths))]


def _content_rows(
    lengths: Tensor,
    leads: Tensor,
    trails: Tensor,
    chunking: Chunking,
    boundaries: Sequence[Sequence[int]] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row's document, offset in that document's content and content length, in document order.

    The fourth result is segments (num_segments, 8): the content's positions in the packed output.
    """
    content = lengths - leads - trails
    empty = (content == 0).nonzero().squeeze(1)
    documents, parts = [empty[:0]], [torch.zeros(0, 8, dtype=torch.int64, device="cpu")]
    # Documents with as many tokens at both ends have as much room for content in a chunk.
    for lead, trail in torch.stack([leads, trails], 1)[content > 0].unique(dim=0).tolist():
        document = ((content > 0) & (leads == lead) & (trails == trail)).nonzero().squeeze(1)
        of_these, segments = _plan(document, content, lead, trail, chunking, boundaries)
        documents.append(of_these)
        parts.append(segments)
    document, segments = torch.cat(documents), torch.cat(parts)
    # A document of special tokens alone is one row without content.
    row_document, order = torch.cat([document, empty]).sort(stable=True)
    none = empty.new_zeros(len(empty))
    row_offset = torch.cat([segments[:, Column.START], none])[order]
    row_content = torch.cat([segments[:, Column.LENGTH], none])[order]
    rows = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device="cpu"))
    segments[:, Column.ROW] = rows[: len(segments)]
    segments[:, Column.START] += (lengths.cumsum(0) - lengths + leads)[document]
    return row_document, row_offset, row_content, segments


def _plan(
    documents: Tensor,
    content: Tensor,
    lead: int,
    trail: int,
    chunking: Chunking,
    boundaries: Sequence[Sequence[int]] | None,
) -> tuple[Tensor, Tensor]:
    """The document of each chunk of `documents`, and segments (num_chunks, 8) that begin in its content."""
    lengths = content[documents]
    room = chunking.chunk_len - lead - chunking.num_prefix - trail
    # Chunks of a document that is one chunk have no overlap, whatever the room.
    room = max(room, 1)
    overlap = min(chunking.overlap_of(room), room - 1)
    planned = plan_segments(
        lengths.tolist(),
        chunking.chunk_len,
        overlap,
        rule=chunking.rule,
        boundaries=None if boundaries is None else [boundaries[i] for i in documents.tolist()],
        num_leading=lead + chunking.num_prefix,
        num_trailing=trail,
    )
    segments = planned.segments.long()
    cu_seqlens = torch.tensor(planned.cu_seqlens, device="cpu")
    index = torch.searchsorted(cu_seqlens, segments[:, Column.START].contiguous(), right=True) - 1
    segments[:, Column.START] -= cu_seqlens[index]
    return documents[index], segments


def _special_segments(row: Tensor, col: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """(num_documents, 8): the special tokens at one end of each document, `size` of them, kept whole."""
    one = torch.ones_like(row)
    return torch.stack([row, col, start, size, torch.zeros_like(row), size, one, one], dim=1)
