"""merge="layer": a text goes through the model once, as one row; its chunks are merged in each attention.

A row holds the content tokens of some documents, then each chunk's extra tokens: its special tokens and the
prefix. Embeddings, projections and feed-forward run once for each of them; attention is chunked_attention.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.attention import cannot_be_replaced
from lckernels.long.batches import Batch
from lckernels.long.chunking import Chunks, Cutting
from lckernels.long.limits import position_table
from lckernels.plan import Plan
from lckernels.reference import segment_weights
from lckernels.segments import Column

_MIXING = (nn.Conv1d, nn.Conv2d, nn.RNNBase)


def check_layerwise(model: nn.Module) -> None:
    """Raises TypeError for a model that merge="layer" cannot run once over a whole text."""
    why = cannot_be_replaced(model) or _not_tokenwise(model) or _not_one_row(model)
    if why:
        got = f"{type(model).__name__}, and {why[0]}"
        raise TypeError(f"model: got {got}; merge='layer' cannot run it, merge='final' can")


def _not_tokenwise(model: nn.Module) -> list[str]:
    if position_table(model) is None:
        return ["it has no table of absolute positions"]
    parameters = inspect.signature(model.forward).parameters.values()
    if not any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in parameters):
        return ["it takes no position_ids"]
    if getattr(model.config, "trigram_input", False):  # MobileBERT
        return ["its embeddings mix neighbouring tokens"]
    mixing = next((type(m).__name__ for m in model.modules() if isinstance(m, _MIXING)), None)
    return [] if mixing is None else [f"its {mixing} mixes neighbouring tokens outside attention"]


def _not_one_row(model: nn.Module) -> list[str]:
    """What a dry run says against more tokens than positions in one row; the call notices what it cannot."""
    from lckernels.hf.dry_run import padded_run, whole_run

    padded, whole = padded_run(model), whole_run(model, position_table(model).num_embeddings + 1)
    narrow = padded.dense or padded.narrow
    if narrow:
        return [f"some of its layers see not all of a chunk: {narrow[0]}"]
    if whole.error and (whole.refused or not padded.error):
        return [whole.error if whole.refused else f"it cannot read a text as one row ({whole.error})"]
    unmasked = "it brings no mask" if any(call.kind is not None for call in whole.calls) else ""
    return [f"{reason} for a text in one row" for reason in (*whole.dense, unmasked) if reason][:1]


@dataclass(frozen=True, eq=False)
class Row:
    """Some documents as one row of the model.

    plan       the content of the documents, packed without special tokens, and its chunks
    weights    as in chunked_attention
    entries    (seqlen,) int64: entry of the flattened batch that each token of the row shows
    positions  (seqlen,) int64: each token's place in its chunk; of a content token, in the chunk that weighs
               it most, the earlier one in a tie
    results    (num_results,) int64: tokens of the row that are the documents' outputs, special ones included
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


class Rows:
    """The rows of a batch, document after document: at most max_tokens each, a document whole."""

    def __init__(self, chunks: Chunks, cutting: Cutting, max_tokens: int) -> None:
        self.chunks, self.cutting = chunks, cutting
        self.content_col = cutting.num_leading + cutting.num_prefix
        self.num_extra = self.content_col + cutting.num_trailing
        self.segments = chunks.plan.segments.long()
        start = self.segments[:, Column.START].contiguous()
        self.cu_seqlens = chunks.plan.cu_seqlens.long()
        row = self.segments[:, Column.ROW]
        # Special tokens are segments too; in a row without content they begin where content would.
        self.row_content = torch.tensor(chunks.widths, device="cpu") - self.num_extra
        begins = self.segments[:, Column.COL] == self.content_col
        self.is_content = begins & (self.row_content[row] > 0)
        self.document = torch.searchsorted(self.cu_seqlens, start, right=True) - 1
        self.row_document = torch.empty_like(self.row_content).scatter_(0, row, self.document)
        self.documents = _ranges(self._document_tokens().tolist(), max_tokens)

    def _document_tokens(self) -> Tensor:
        """(num_documents,): tokens of each in its row."""
        lengths = self.cu_seqlens.diff()
        num_chunks = torch.bincount(self.row_document, minlength=len(lengths))
        return lengths - self.cutting.num_special + num_chunks * self.num_extra

    def num_tokens(self) -> list[int]:
        """Tokens of each row."""
        tokens = self._document_tokens()
        return [int(tokens[start:stop].sum()) for start, stop in self.documents]

    def make(self, start: int, stop: int, weights: str | Tensor) -> Row:
        """The row of documents [start, stop); weights as in LongEncoder, for all chunks of the batch."""
        rows = ((self.row_document >= start) & (self.row_document < stop)).nonzero().squeeze(1)
        own = (self.document >= start) & (self.document < stop)
        plan = self._plan(start, stop, rows, self.segments[own & self.is_content])
        content = self.row_content[rows, None]
        if isinstance(weights, Tensor):
            weights = weights[rows.to(weights.device), : plan.chunk_len]
        elif plan.num_chunks == stop - start:
            # Without overlap every weight is the same, and uniform ones divide by exactly 1.
            weights = "uniform"
        index = self.chunks.index[rows]
        entries, positions = _content(plan, weights, index)
        column = torch.arange(self.num_extra, device="cpu")
        column = torch.where(column < self.content_col, column, column + content)
        return Row(
            plan=plan,
            weights=weights,
            num_extra=self.num_extra,
            entries=torch.cat([entries, index.gather(1, column).flatten()]),
            positions=torch.cat([positions, column.flatten()]),
            results=self._results(start, stop, rows, plan.total_len, self.segments[own & ~self.is_content]),
        )

    def _plan(self, start: int, stop: int, rows: Tensor, segments: Tensor) -> Plan:
        """The content alone: segments of the batch's plan, moved to where special tokens take no place."""
        segments, cutting = segments[:, : Column.FILL_START].t().contiguous(), self.cutting
        documents = torch.arange(stop - start + 1, device="cpu")
        offsets = self.cu_seqlens[start : stop + 1] - self.cu_seqlens[start] - cutting.num_special * documents
        document = torch.searchsorted(self.cu_seqlens, segments[Column.START], right=True) - 1
        segments[Column.START] -= self.cu_seqlens[document] + cutting.num_leading - offsets[document - start]
        segments[Column.ROW] = torch.searchsorted(rows, segments[Column.ROW])
        return Plan.from_segments(
            segments.t(),
            num_chunks=len(rows),
            chunk_len=max(self.chunks.widths[row] for row in rows.tolist()),
            total_len=int(offsets[-1]),
            cu_seqlens=offsets,
        )

    def _results(self, start: int, stop: int, rows: Tensor, total_len: int, special: Tensor) -> Tensor:
        begin, end = int(self.cu_seqlens[start]), int(self.cu_seqlens[stop])
        results = torch.full((end - begin,), -1, device="cpu")
        for row, col, at, length in special[:, : Column.KEEP_START].tolist():
            # A special token behind the content is an extra token behind the leading ones.
            extra = col if col < self.content_col else col - int(self.row_content[row])
            first = total_len + int(torch.searchsorted(rows, row)) * self.num_extra + extra
            results[at - begin : at - begin + length] = torch.arange(first, first + length, device="cpu")
        results[results < 0] = torch.arange(total_len, device="cpu")
        return results


def _ranges(tokens: list[int], max_tokens: int) -> list[tuple[int, int]]:
    """Neighbouring documents that share a row: one, or at most max_tokens tokens."""
    ranges, start, total = [], 0, 0
    for document, count in enumerate(tokens):
        if document > start and total + count > max_tokens:
            ranges.append((start, document))
            start, total = document, 0
        total += count
    return [*ranges, (start, len(tokens))]


def _content(plan: Plan, weights: str | Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and place in its heaviest chunk of each content token."""
    weights = weights.detach().cpu() if isinstance(weights, Tensor) else weights
    entries = torch.empty(plan.total_len, dtype=torch.int64, device="cpu")
    positions = torch.empty_like(entries)
    heaviest = torch.full((plan.total_len,), -torch.inf, device="cpu")
    for segment in plan.segments.tolist():
        row, col, start, length = segment[: Column.KEEP_START]
        span, columns = slice(start, start + length), torch.arange(col, col + length, device="cpu")
        a = segment_weights(segment, weights, torch.float32)
        heavier = a > heaviest[span]
        heaviest[span] = torch.where(heavier, a, heaviest[span])
        positions[span] = torch.where(heavier, columns, positions[span])
        entries[span] = index[row, col : col + length]
    return entries, positions


def read_row(
    model: nn.Module,
    batch: Batch,
    row: Row,
    first_position: int,
    on_layer: Callable[[], None],
    **options: Any,
) -> Any:
    """The model's output over a row, under lckernels' attention; batch: as `Batch.on` gives it."""
    from lckernels.hf.mask import ChunkMask

    device = next(iter(batch.sources.values())).device
    mask = ChunkMask.of_shape(1, 1, row.num_tokens, row.num_tokens, device=device)
    mask.plan, mask.num_extra = row.plan.to(device), row.num_extra
    mask.weights = row.weights.to(device) if isinstance(row.weights, Tensor) else row.weights
    calls = []
    mask.on_layer = lambda: calls.append(on_layer())
    output = model(
        **batch.gather(row.entries[None].to(device), [row.num_tokens]),
        attention_mask=mask,
        position_ids=(row.positions + first_position)[None].to(device),
        **options,
    )
    if not calls:
        raise TypeError(f"model: {type(model).__name__} ran without lckernels' attention; take merge='final'")
    return output
