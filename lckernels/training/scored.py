"""The chunks of a batch of documents, and the tokens that each chunk scores."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.long.chunking import chunk_documents
from lckernels.long.sizes import Chunking
from lckernels.segments import Column
from lckernels.training.documents import Documents


@dataclass(frozen=True, eq=False)
class Scored:
    """Chunks that score at least one token, longest first, and what they score, in the order of the rows.

    Attributes:
        index: (num_chunks, chunk_len) int64, the entry of the flattened batch that each column reads;
            num_entries is padding.
        widths: tokens of each chunk.
        columns: (num_scored,) int64, the entries of `index` whose states are scored.
        labels: (num_scored,) int64, the entry of the flattened batch that has the label of each.
    """

    index: Tensor
    widths: list[int]
    columns: Tensor
    labels: Tensor

    def of_rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """index (rows, width) and columns of a range of rows, the columns as entries of that index."""
        width, chunk_len = self.widths[start], self.index.shape[1]
        bounds = torch.tensor([start, stop], device="cpu") * chunk_len
        first, last = torch.searchsorted(self.columns, bounds).tolist()
        columns = self.columns[first:last] - start * chunk_len
        return self.index[start:stop, :width], columns // chunk_len * width + columns % chunk_len


def causal_chunks(documents: Documents, context: int, overlap: int) -> Scored:
    """Chunks of at most `context` tokens; each state is that of the earliest chunk with its token.

    The state of a token scores the next token, so the last token of a document is read by no chunk. Chunks
    begin every context - overlap tokens; the last is shifted left to be full.

    Args:
        documents: of the call.
        context: tokens of a chunk.
        overlap: 0 <= overlap < context.
    """
    read = (documents.lengths - 1).clamp(min=0)  # tokens of each document whose states are used
    step = context - overlap
    counts = torch.where(read > context, 1 + (read - context + step - 1) // step, (read > 0).long())
    document = torch.arange(len(read), device="cpu").repeat_interleave(counts)
    number = torch.arange(len(document), device="cpu") - (counts.cumsum(0) - counts)[document]
    size = read[document]
    begin = torch.minimum(number * step, (size - context).clamp(min=0))
    width = size.clamp(max=context)
    before = torch.minimum((number - 1) * step, (size - context).clamp(min=0)) + context
    kept = torch.where(number > 0, before - begin, 0)  # the first column that this chunk scores
    column = torch.arange(int(width.max()) if len(width) else 0, device="cpu")
    inside = column < width[:, None]
    index = documents.flat_first[document, None] + begin[:, None] + column
    index = torch.where(inside, index, documents.num_entries)
    labels = torch.where(inside & (column >= kept[:, None]), index + 1, -1)
    return _scored(documents, index, width, labels)


def masked_chunks(documents: Documents, chunking: Chunking) -> Scored:
    """The chunks of `chunk_documents`; each token is scored by the chunk that keeps it.

    Args:
        documents: of the call.
        chunking: sizes of a chunk, and the rule "max_context".
    """
    some = (documents.lengths > 0).nonzero().squeeze(1)
    if not len(some):
        empty = torch.zeros(0, 0, dtype=torch.int64, device="cpu")
        return _scored(documents, empty, documents.lengths[:0], empty)
    chunks = chunk_documents(
        documents.flat_first[some], documents.lengths[some], documents.num_entries, chunking
    )
    column = torch.arange(chunks.chunk_len, device="cpu")
    kept = torch.zeros_like(chunks.index, dtype=torch.bool)
    for segment in _layers(chunks.segments):
        first = segment[:, Column.COL] + segment[:, Column.KEEP_START]
        last = segment[:, Column.COL] + segment[:, Column.KEEP_END]
        kept[segment[:, Column.ROW]] |= (column >= first[:, None]) & (column < last[:, None])
    labels = torch.where(kept, chunks.index, -1)
    return _scored(documents, chunks.index, torch.tensor(chunks.widths, device="cpu"), labels)


def _layers(segments: Tensor) -> list[Tensor]:
    """The segments in groups of which each has a row at most once."""
    order = segments[:, Column.ROW].argsort(stable=True)
    segments = segments[order]
    row = segments[:, Column.ROW].contiguous()
    rank = torch.arange(len(row), device="cpu") - torch.searchsorted(row, row)
    return [segments[rank == number] for number in range(int(rank.max()) + 1)]


def _scored(documents: Documents, index: Tensor, widths: Tensor, labels: Tensor) -> Scored:
    """The chunks that score a token, longest first.

    Args:
        documents: of the call.
        index: (num_chunks, chunk_len), as in `Scored`.
        widths: (num_chunks,).
        labels: like index, the entry that has the label of each column; -1: it scores none.
    """
    is_scored = (labels >= 0) & documents.has_label[labels]
    rows = is_scored.any(1).nonzero().squeeze(1) if is_scored.numel() else widths[:0]
    rows = rows[widths[rows].argsort(descending=True, stable=True)]
    widths = widths[rows].tolist()
    index, labels, is_scored = (x[rows, : max(widths, default=0)] for x in (index, labels, is_scored))
    return Scored(index, widths, is_scored.flatten().nonzero().squeeze(1), labels[is_scored])
