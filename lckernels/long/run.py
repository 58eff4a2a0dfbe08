"""A batch of a LongEncoder's call: one call of the model, or chunks that are merged."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lckernels.checks import bad
from lckernels.long.arguments import content_boundaries, fixed_tokens, sequence_lengths
from lckernels.long.batches import Batch, Entries
from lckernels.long.chunking import Chunks, chunk_documents, micro_batches
from lckernels.long.layer_merge import run_rows
from lckernels.long.layer_rows import PackedRows
from lckernels.long.merging import run_chunks
from lckernels.long.outputs import Outputs
from lckernels.long.ranks import Runs
from lckernels.long.recompute import Recompute
from lckernels.long.sizes import Chunking
from lckernels.long.trial import check_row_length
from lckernels.progress import token_bar

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder


def run_batch(
    encoder: "LongEncoder",
    batch: Batch,
    outputs: Outputs,
    sentence_boundaries: Sequence[Sequence[int]] | None,
    num_leading: Sequence[int] | Tensor | None,
    num_trailing: Sequence[int] | Tensor | None,
) -> list[Tensor]:
    """The states (batch, seqlen, dim), in the order of `Outputs.states`; arguments as of a call."""
    if _is_one_call(encoder, batch, sentence_boundaries):
        return _run_whole(encoder, batch, outputs)
    chunking = encoder.chunking
    for name, given in (("num_leading", num_leading), ("num_trailing", num_trailing)):
        if given is not None and encoder.merge == "layer":
            raise bad(name, type(given).__name__, "expected None with merge='layer'")
        if given is not None and encoder.halo is not None:
            raise bad(name, type(given).__name__, "expected None with halo='exact'")
    fixed = fixed_tokens(num_leading, num_trailing, batch.lengths, chunking)
    offsets = content_boundaries(sentence_boundaries, chunking, batch.first, batch.lengths, *fixed)
    chunks = chunk_documents(batch.flat_first, batch.lengths, batch.num_entries, chunking, offsets, *fixed)
    weights = encoder.weights(chunks.plan) if callable(encoder.weights) else encoder.weights
    device = encoder.device
    entries = batch.entries(device, encoder.prefix, encoder.model)
    run = _run_rows if encoder.merge == "layer" else _run_chunks
    merged = run(encoder, batch, entries, chunks, outputs, weights, encoder.output_device or device)
    return encoder._unpack(batch, chunks, merged)


def chunks_of(
    chunking: Chunking, lengths: int | Sequence[int], sentence_boundaries: Sequence[Sequence[int]] | None
) -> Chunks:
    """The chunks of documents with so many tokens each, special tokens included."""
    lengths = sequence_lengths("lengths", lengths, chunking.num_special)
    fixed = fixed_tokens(None, None, lengths, chunking)
    offsets = content_boundaries(sentence_boundaries, chunking, torch.zeros_like(lengths), lengths, *fixed)
    return chunk_documents(lengths.cumsum(0) - lengths, lengths, int(lengths.sum()), chunking, offsets)


def _is_one_call(encoder: "LongEncoder", batch: Batch, sentence_boundaries: object) -> bool:
    """Whether the result is that of the model, called with the arguments: no plan and no merge."""
    chunking = encoder.chunking
    rows, seqlen = batch.shape
    return (
        batch.whole
        and seqlen <= chunking.chunk_len
        and len(micro_batches([seqlen] * rows, encoder.max_tokens, encoder._rows)) == 1
        and encoder.merge == "final"
        and isinstance(encoder.weights, str)
        and chunking.num_prefix == 0
        and chunking.rule != "sentence"
        and sentence_boundaries is None
        and not encoder.progress
    )


def _run_whole(encoder: "LongEncoder", batch: Batch, outputs: Outputs) -> list[Tensor]:
    """The model's own states (batch, seqlen, dim)."""
    check_row_length(encoder.model, encoder.trial, [batch.shape[1]])
    device, options = encoder.device, {"output_hidden_states": outputs.hidden_states, "return_dict": True}
    runs = Runs(encoder, batch.first_tokens, 1)
    with encoder._attention_contexts.of(encoder.model, encoder.attention, batch.shape[1]):
        output = encoder._call(**batch.on(device), **options)
    states = runs.finish(outputs.states(output, batch.shape))
    return [state.to(encoder.output_device or device) for state in states]


def _run_chunks(
    encoder: "LongEncoder", batch: Batch, entries: Entries, chunks: Chunks, outputs: Outputs, *merge: Any
) -> list[Tensor]:
    """merge="final": the merged states (total_len, dim) of micro-batches of chunks."""
    check_row_length(encoder.model, encoder.trial, chunks.widths)
    ranges = micro_batches(chunks.widths, encoder.max_tokens, encoder._rows, encoder._borders)

    def attention() -> Any:
        return encoder._attention_contexts.of(encoder.model, encoder.attention, chunks.chunk_len)

    options = {"summary": encoder.summary, "recompute": Recompute.of_call(encoder, attention)}
    runs = Runs(encoder, batch.first_tokens, len(ranges))
    with token_bar(chunks.num_tokens, "LongEncoder", encoder.progress) as advance:
        states = run_chunks(
            encoder._call, entries, chunks, outputs, *merge, ranges, advance, attention, **options
        )
    return runs.finish(states)


def _run_rows(
    encoder: "LongEncoder", batch: Batch, entries: Entries, chunks: Chunks, outputs: Outputs, *merge: Any
) -> list[Tensor]:
    """merge="layer": the states (total_len, dim) of rows of whole documents."""
    rows = PackedRows(chunks, encoder.chunking, encoder.max_tokens)

    def attention() -> Any:
        return encoder._attention_contexts.of(
            encoder.model, "lckernels", chunks.chunk_len, encoder.max_tokens
        )

    recompute = Recompute.of_call(encoder, attention)
    runs = Runs(encoder, batch.first_tokens, len(rows.ranges))
    with attention(), token_bar(sum(rows.num_tokens()), "LongEncoder", encoder.progress) as advance:
        states = run_rows(
            encoder.model, encoder._model_call, entries, rows, outputs, *merge, advance, recompute
        )
    return runs.finish(states)
