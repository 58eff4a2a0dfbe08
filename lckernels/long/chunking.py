"""How a padded batch of documents is cut into chunks, and where the chunks' tokens and outputs lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.plan import Plan
from lckernels.planner import plan_chunks
from lckernels.segments import Column

# Rows of unequal length share a micro-batch while at most this part of it is padding.
MAX_PADDING = 1 / 8


@dataclass(frozen=True)
class Cutting:
    """chunk_len: tokens of a chunk, special tokens and prefix included. rule: as in `plan_chunks`.

    num_leading, num_trailing: special tokens at a document's ends, which every chunk gets.
    num_prefix: tokens of the prefix, between the leading special tokens and the content.
    """

    chunk_len: int
    overlap: int
    rule: str
    num_leading: int
    num_trailing: int
    num_prefix: int

    @property
    def num_special(self) -> int:
        return self.num_leading + self.num_trailing


@dataclass(frozen=True, eq=False)
class Chunks:
    """Rows, the longest first, and where their outputs land.

    plan    outputs of all documents, packed, special tokens included
    widths  tokens of each row
    index   (num_chunks, plan.chunk_len) int64: entry of the flattened batch that each column shows; entries
            from num_entries on are the prefix, and num_entries + num_prefix is padding
    """

    plan: Plan
    widths: list[int]
    index: Tensor

    @property
    def num_tokens(self) -> int:
        return sum(self.widths)


def cut_documents(
    first: Tensor,
    lengths: Tensor,
    num_entries: int,
    cutting: Cutting,
    boundaries: Sequence[Sequence[int]] | None = None,
) -> Chunks:
    """Cuts the documents that lie in a flattened batch.

    first       (num_documents,) int64, CPU: entry of the flattened batch at which each document begins
    lengths     (num_documents,) int64, CPU: its tokens, special tokens included
    boundaries  for the rule "sentence": per document the offsets in its content at which a cut is allowed
    """
    lead, trail = cutting.num_leading, cutting.num_trailing
    content_col = lead + cutting.num_prefix
    row_document, row_offset, row_content, content_segments = _content_rows(lengths, cutting, boundaries)
    num_chunks = len(row_document)
    widths = row_content + content_col + trail

    # Longest first, so that a micro-batch is a range of rows of nearly equal width.
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
    width = int(widths.max())
    plan = Plan.from_segments(
        torch.cat(segments),
        num_chunks=num_chunks,
        chunk_len=width,
        total_len=int(ends[-1]),
        cu_seqlens=torch.cat([ends.new_zeros(1), ends]),
    )

    content_end = (content_col + row_content)[order, None]
    base = first[row_document][order, None]
    column = torch.arange(width, device="cpu")
    index = base + lead + row_offset[order, None] + (column - content_col)
    index = torch.where(column < content_col, num_entries + (column - lead), index)
    index = torch.where(column < lead, base + column, index)
    tail = base + lengths[row_document][order, None] - trail + (column - content_end)
    index = torch.where(column >= content_end, tail, index)
    index = torch.where(column >= content_end + trail, num_entries + cutting.num_prefix, index)
    return Chunks(plan, widths[order].tolist(), index)


def micro_batches(widths: list[int], max_tokens: int) -> list[tuple[int, int]]:
    """Ranges of rows of falling width: one row, or at most max_tokens, at most MAX_PADDING of it padding."""
    ranges, start, padding = [], 0, 0
    for row, width in enumerate(widths):
        tokens = (row + 1 - start) * widths[start]
        padding += widths[start] - width
        if row > start and (tokens > max_tokens or padding > MAX_PADDING * tokens):
            ranges.append((start, row))
            start, padding = row, 0
    return [*ranges, (start, len(widths))]


def _content_rows(
    lengths: Tensor, cutting: Cutting, boundaries: Sequence[Sequence[int]] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per row its document, its offset in that document's content and its content's length, rows in document
    order; and segments (num_segments, 8) of the content on the packed output."""
    content = lengths - cutting.num_special
    filled = (content > 0).nonzero().squeeze(1)
    empty = (content == 0).nonzero().squeeze(1)
    segments = torch.zeros(0, 8, dtype=torch.int64, device="cpu")
    document = filled[:0]
    if len(filled):
        plan = plan_chunks(
            content[filled].tolist(),
            cutting.chunk_len,
            cutting.overlap,
            rule=cutting.rule,
            boundaries=None if boundaries is None else [boundaries[i] for i in filled.tolist()],
            num_leading=cutting.num_leading + cutting.num_prefix,
            num_trailing=cutting.num_trailing,
        )
        segments = plan.segments[:, :8].long()
        cu_seqlens = plan.cu_seqlens.long()
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
    segments[:, Column.START] += (lengths.cumsum(0) - lengths)[document] + cutting.num_leading
    return row_document, row_offset, row_content, segments


def _special_segments(row: Tensor, col: Tensor, start: Tensor, length: int) -> Tensor:
    """(num_documents, 8): `length` special tokens of each document, kept whole."""
    size = torch.full_like(row, length)
    one = torch.ones_like(row)
    return torch.stack([row, col, start, size, torch.zeros_like(row), size, one, one], dim=1)
