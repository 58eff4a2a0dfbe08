"""Rows of the model for merge="layer": the content of some documents, then each chunk's extra tokens.

The extra tokens of a chunk are its special tokens and the prefix.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lckernels.long.chunking import Chunks
from lckernels.long.sizes import Chunking
from lckernels.plan import Plan
from lckernels.reference import segment_weights
from lckernels.segments import Column


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Some documents packed in one row of the model.

    Attributes:
        plan: the chunks of the documents' content, packed without special tokens.
        weights: merge weights, as in `chunked_attention`.
        num_extra: extra tokens per chunk.
        entries: (seqlen,) int64, the entry of the flattened batch that each token of the row comes from.
        positions: (seqlen,) int64, the model's position of each token; of a content token that in the chunk
            which weighs it most, the earlier one in a tie.
        results: (num_results,) int64, the row's tokens that are the documents' outputs, special tokens
            included.
    """

    plan: Plan
    weights: str | Tensor
    num_extra: int
    entries: Tensor
    positions: Tensor
    results: Tensor

    @property
    def num_tokens(self) -> int:
        return len(self.entries)


class PackedRows:
    """The rows of a batch: documents in order, whole, at most `max_tokens` tokens per row where they fit.

    Args:
        chunks: the chunks of the batch.
        chunking: the sizes they were made with.
        max_tokens: bound on the tokens of a row of several documents.

    Attributes:
        ranges: the half-open range of documents in each row.
    """

    def __init__(self, chunks: Chunks, chunking: Chunking, max_tokens: int) -> None:
        self.chunks, self.chunking = chunks, chunking
        self.content_col = chunking.num_leading + chunking.num_prefix
        self.num_extra = self.content_col + chunking.num_trailing
        self.segments = chunks.segments
        self.cu_seqlens = chunks.cu_seqlens
        row = self.segments[:, Column.ROW]
        # Special tokens are segments too; in a chunk without content they begin at the content's column.
        self.row_content = torch.tensor(chunks.widths, device="cpu") - self.num_extra
        begins = self.segments[:, Column.COL] == self.content_col
        self.is_content = begins & (self.row_content[row] > 0)
        self.document = self._document_at(self.segments[:, Column.START])
        self.row_document = torch.zeros_like(self.row_content).scatter_(0, row, self.document)
        self.document_tokens = self._document_tokens()
        self.ranges = _ranges(self.document_tokens.tolist(), max_tokens)

    def num_tokens(self) -> list[int]:
        """Tokens of each row."""
        return [int(self.document_tokens[start:stop].sum()) for start, stop in self.ranges]

    def pack(self, start: int, stop: int, weights: str | Tensor, positions: Tensor) -> PackedRow:
        """The row of some documents.

        Args:
            start: the first document.
            stop: the one after the last.
            weights: as in LongEncoder, for all chunks of the batch.
            positions: (num_chunks, chunk_len), as `chunk_positions` returns them.
        """
        rows = ((self.row_document >= start) & (self.row_document < stop)).nonzero().squeeze(1)
        own = (self.document >= start) & (self.document < stop)
        plan = self._plan(start, stop, rows, self.segments[own & self.is_content])
        content = self.row_content[rows, None]
        if isinstance(weights, Tensor):
            weights = weights[rows.to(weights.device), : plan.chunk_len]
        elif plan.num_chunks == stop - start:
            # Without overlap every weight is the same, and uniform ones divide by exactly 1.
            weights = "uniform"
        index, positions = self.chunks.index[rows], positions[rows]
        entries, heaviest = _content_tokens(plan, weights, index, positions)
        column = torch.arange(self.num_extra, device="cpu")
        column = torch.where(column < self.content_col, column, column + content)
        return PackedRow(
            plan=plan,
            weights=weights,
            num_extra=self.num_extra,
            entries=torch.cat([entries, index.gather(1, column).flatten()]),
            positions=torch.cat([heaviest, positions.gather(1, column).flatten()]),
            results=self._results(start, stop, rows, plan.total_len, self.segments[own & ~self.is_content]),
        )

    def _document_at(self, position: Tensor) -> Tensor:
        return torch.searchsorted(self.cu_seqlens, position.contiguous(), right=True) - 1

    def _document_tokens(self) -> Tensor:
        """(num_documents,): tokens of each document in its row."""
        lengths = self.cu_seqlens.diff()
        num_chunks = torch.bincount(self.row_document, minlength=len(lengths))
        return lengths - self.chunking.num_special + num_chunks * self.num_extra

    def _plan(self, start: int, stop: int, rows: Tensor, segments: Tensor) -> Plan:
        """The content's chunks alone: the batch's segments, shifted by the special tokens before them."""
        segments = segments.t().contiguous()
        documents = torch.arange(stop - start + 1, device="cpu")
        offsets = self.cu_seqlens[start : stop + 1] - self.cu_seqlens[start]
        offsets -= self.chunking.num_special * documents
        document = self._document_at(segments[Column.START])
        segments[Column.START] -= self.cu_seqlens[document] + self.chunking.num_leading
        segments[Column.START] += offsets[document - start]
        segments[Column.ROW] = torch.searchsorted(rows, segments[Column.ROW])
        return Plan.from_segments(
            segments.t(),
            num_chunks=len(rows),
            chunk_len=max(self.chunks.widths[row] for row in rows.tolist()),
            total_len=int(offsets[-1]),
            cu_seqlens=offsets,
        )

    def _results(self, start: int, stop: int, rows: Tensor, total_len: int, special: Tensor) -> Tensor:
        """(num_results,): content tokens in order, with the documents' own special tokens between them."""
        begin, end = int(self.cu_seqlens[start]), int(self.cu_seqlens[stop])
        results = torch.full((end - begin,), -1, device="cpu")
        for row, col, at, length in special[:, : Column.KEEP_START].tolist():
            # A special token after the content is an extra token after the leading ones.
            extra = col if col < self.content_col else col - int(self.row_content[row])
            first = total_len + int(torch.searchsorted(rows, row)) * self.num_extra + extra
            results[at - begin : at - begin + length] = torch.arange(first, first + length, device="cpu")
        results[results < 0] = torch.arange(total_len, device="cpu")
        return results


def _ranges(tokens: list[int], max_tokens: int) -> list[tuple[int, int]]:
    """Neighbouring documents that share a row: one, or several of at most max_tokens tokens together."""
    ranges, start, total = [], 0, 0
    for document, count in enumerate(tokens):
        if document > start and total + count > max_tokens:
            ranges.append((start, document))
            start, total = document, 0
        total += count
    return [*ranges, (start, len(tokens))]


def _content_tokens(
    plan: Plan, weights: str | Tensor, index: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Entry of the flattened batch, and position in its heaviest chunk, of each content token."""
    weights = weights.detach().cpu() if isinstance(weights, Tensor) else weights
    entries = torch.zeros(plan.total_len, dtype=torch.int64, device="cpu")
    chosen = torch.zeros_like(entries)
    heaviest = torch.full((plan.total_len,), -torch.inf, device="cpu")
    for segment in plan.segments.tolist():
        row, col, start, length = segment[: Column.KEEP_START]
        span, columns = slice(start, start + length), slice(col, col + length)
        a = segment_weights(segment, weights, torch.float32)
        heavier = a > heaviest[span]
        heaviest[span] = torch.where(heavier, a, heaviest[span])
        chosen[span] = torch.where(heavier, positions[row, columns], chosen[span])
        entries[span] = index[row, columns]
    return entries, chosen
