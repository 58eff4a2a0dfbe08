"""Cost and accuracy of a call of LongEncoder, before it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lckernels.checks import bad
from lckernels.flops import encoder_flops, format_bytes, format_flops
from lckernels.long.arguments import sequence_lengths
from lckernels.long.attention import config_notes, describe_attention
from lckernels.long.batches import Batch, check_token_ids, read_batch
from lckernels.long.checkpoints import max_seq_length
from lckernels.long.chunking import Rows, chunk_documents, micro_batches
from lckernels.long.exactness import model_reach
from lckernels.long.inputs import Numbers, as_tensors
from lckernels.long.layer_rows import PackedRows
from lckernels.long.measure import Measurement, measure
from lckernels.long.memory import encoder_sizes, layer_values

if TYPE_CHECKING:
    from lckernels.hf.reach import Reach
    from lckernels.long.encoder import LongEncoder

_MERGED = {"final": "after the last layer", "layer": "in every layer, after attention"}
_LOSSES = {
    "final": "a token attends to its chunk, not to the whole sequence",
    "layer": "in a layer a token attends to its chunks, not to the whole sequence, and has one position for "
    "all of them",
}


@dataclass(frozen=True)
class Explanation:
    """Sizes in tokens, memory in bytes, arithmetic in floating point operations (a multiply-add is two).

    Attributes:
        seqlen: tokens of all sequences, special tokens included.
        num_documents: sequences.
        num_chunks: chunks that are read.
        num_micro_batches: forwards of the model; with merge="layer" one is a row of whole sequences.
        chunk_len: as in LongEncoder.
        overlap: as in LongEncoder.
        weights: as in LongEncoder; "explicit" for a tensor or a function.
        merge: as in LongEncoder.
        attention: "lckernels", in how many layers if not in all, or why the model's own is used.
        halo: at a chunk border a token has at least so many tokens of context on either side in one of its
            chunks; None if no sequence has a border.
        reach: how many tokens each layer of the model attends to, as it is now, a patch included: `layers`,
            and `total`, the sum over all layers; None for one that is no model of transformers.
        recompute_factor: tokens read, prefix and special tokens included, per token of the sequences. With
            merge="layer" a token is read once, but attention runs once per chunk that contains it.
        exact: the result is the model's own for whole sequences, not an approximation of a model with more
            positions: each sequence is one chunk, or halo="exact".
        rows: which rows a micro-batch may hold, and why not any, or that this is not known before the first
            call; empty where it may hold any.
        max_seq_length: the limit in the sentence_bert_config.json stored with the model; None without one.
        output_bytes: the merged last_hidden_state.
        buffer_bytes: the chunks' hidden states before the merge, for each state that is requested; none with
            merge="layer".
        batch_bytes: estimate of the largest micro-batch's activations in one layer, without gradients; None
            if the model's config has no sizes.
        flops: matrix products of the encoder; in a layer whose reach is a window, attention counts the keys
            in it. None if the model's config has no sizes.
        flops_one_piece: the same for a model that reads each sequence at once.
        measured: the error on given tokens; None if it was not measured.
        not_measured: why not, where that was requested; empty otherwise.
        notes: fields of the model's config with another effect than their names, a sentence for each.
    """

    seqlen: int
    num_documents: int
    num_chunks: int
    num_micro_batches: int
    chunk_len: int
    overlap: int
    weights: str
    merge: str
    attention: str
    halo: int | None
    reach: "Reach | None"
    recompute_factor: float
    exact: bool
    rows: str
    max_seq_length: int | None
    output_bytes: int
    buffer_bytes: int
    batch_bytes: int | None
    flops: int | None
    flops_one_piece: int | None
    measured: Measurement | None = None
    not_measured: str = ""
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        halo = "none needed, every sequence is one chunk"
        if self.halo is not None:
            halo = f"{self.halo:,} tokens at least"
        verdict = "exact" if self.exact else f"approximate: {_LOSSES[self.merge]}"
        reach = "not known: it is no model of transformers" if self.reach is None else str(self.reach)
        sequences = "1 sequence" if self.num_documents == 1 else f"{self.num_documents:,} sequences"
        memory = f"{format_bytes(self.output_bytes)} result, {format_bytes(self.buffer_bytes)} chunks"
        if self.batch_bytes is not None:
            memory += f", about {format_bytes(self.batch_bytes)} per micro-batch"
        lines = [
            f"{sequences}, {self.seqlen:,} tokens",
            f"chunks       {self.num_chunks:,} of up to {self.chunk_len:,} tokens, overlap {self.overlap:,}, "
            f"weights {self.weights}, in {self.num_micro_batches:,} micro-batches",
            f"merge        {_MERGED[self.merge]}",
            f"attention    {self.attention}",
            f"result       {verdict}",
            f"halo         {halo}",
            f"reach        {reach}",
            f"recompute    {self.recompute_factor:.2f} tokens read per token",
            f"memory       {memory}",
        ]
        if self.flops is not None:
            one_piece = f"{format_flops(self.flops_one_piece)} for a model that reads it at once"
            lines.append(f"arithmetic   {format_flops(self.flops)}; {one_piece}")
        if self.measured is not None:
            lines += str(self.measured).splitlines()
        if self.not_measured:
            lines.append(f"measured     nothing: {self.not_measured}")
        if self.rows:
            lines.append(f"rows         {self.rows}")
        if self.max_seq_length not in (None, self.chunk_len):
            lines.append(
                f"note         sentence_bert_config.json has max_seq_length {self.max_seq_length:,}, "
                f"chunk_len is {self.chunk_len:,}"
            )
        lines += [f"note         {note}" for note in self.notes]
        return "\n".join(lines)


def explain(
    encoder: "LongEncoder",
    seqlen: int | Sequence[int] | None,
    input_ids: Numbers | None,
    attention_mask: Numbers | None,
    measured: bool,
) -> Explanation:
    """The explanation of `LongEncoder.explain`."""
    if (seqlen is None) == (input_ids is None):
        got = "neither" if seqlen is None else "both"
        raise ValueError(f"seqlen, input_ids: got {got}; expected one of the two")
    if input_ids is None:
        if attention_mask is not None:
            raise bad("attention_mask", type(attention_mask).__name__, "it requires input_ids")
        if measured:
            raise bad("measure", measured, "it requires input_ids, the tokens to measure on")
        return _explain(encoder, sequence_lengths("seqlen", seqlen, encoder.chunking.num_special))
    given = as_tensors({"input_ids": input_ids, "attention_mask": attention_mask})
    batch = read_batch(**given, **_NO_INPUTS, num_special=encoder.chunking.num_special)
    check_token_ids(batch, encoder.model)
    found = _explain(encoder, batch.lengths)
    return _with_measurement(encoder, found, batch) if measured else found


_NO_INPUTS = {"inputs_embeds": None, "token_type_ids": None}


def _with_measurement(encoder: "LongEncoder", found: Explanation, batch: Batch) -> Explanation:
    result = measure(encoder, batch)
    return replace(found, **{"not_measured" if isinstance(result, str) else "measured": result})


def _explain(encoder: "LongEncoder", tokens: Tensor) -> Explanation:
    chunking = encoder.chunking
    lengths = tokens.tolist()
    chunks = chunk_documents(tokens.cumsum(0) - tokens, tokens, sum(lengths), replace(chunking, rule="sled"))
    widths = chunks.widths
    one_piece = chunks.num_chunks == len(lengths)
    sizes = encoder_sizes(encoder.config)
    dtype_bytes = torch.finfo(encoder.dtype).bits // 8
    hidden = getattr(encoder.config, "hidden_size", 0)
    layer = encoder.merge == "layer"
    if layer:
        batch_tokens = PackedRows(chunks, chunking, encoder.max_tokens).num_tokens()
    else:
        ranges = micro_batches(widths, encoder.max_tokens, encoder.rows or Rows.ANY, encoder._borders)
        batch_tokens = [(b - a) * widths[a] for a, b in ranges]
    read = sum(batch_tokens) if layer else sum(widths)
    largest = max(batch_tokens)
    # With merge="layer" a row's feed-forward runs in pieces.
    wide = min(largest, encoder.max_tokens) if layer else largest
    reach = model_reach(encoder.model)
    known = reach is not None and not reach.unknown
    windows = [(layer.before, layer.after) for layer in reach.layers] if known else None
    # A model that supports merge="layer" runs on lckernels in every layer.
    attention = (
        "lckernels" if layer else describe_attention(encoder.model, encoder.attention, chunks.chunk_len)
    )
    return Explanation(
        seqlen=sum(lengths),
        num_documents=len(lengths),
        num_chunks=chunks.num_chunks,
        num_micro_batches=len(batch_tokens),
        chunk_len=chunking.chunk_len,
        overlap=chunking.overlap,
        weights=encoder.weights if isinstance(encoder.weights, str) else "explicit",
        merge=encoder.merge,
        attention=attention,
        halo=None if one_piece else chunking.overlap // 2,
        reach=reach,
        recompute_factor=read / sum(lengths),
        exact=encoder.halo is not None or (one_piece and chunking.num_prefix == 0),
        rows=_rows(encoder),
        max_seq_length=max_seq_length(getattr(encoder.model, "name_or_path", "")),
        output_bytes=chunks.total_len * hidden * dtype_bytes,
        buffer_bytes=0 if layer else chunks.num_chunks * chunks.chunk_len * hidden * dtype_bytes,
        batch_bytes=sizes and dtype_bytes * layer_values(largest, wide, *sizes[1:]),
        flops=sizes and encoder_flops(read, widths, *sizes, windows),
        flops_one_piece=sizes and encoder_flops(sum(lengths), lengths, *sizes, windows),
        notes=config_notes(encoder.model),
    )


def _rows(encoder: "LongEncoder") -> str:
    trial = encoder.trial
    if trial is None:
        counted = f"; micro-batches are counted as for {Rows.ANY.value}" if encoder.merge == "final" else ""
        return f"not known before the first call{counted}"
    return "" if not trial.reason else f"{trial.rows.value} per micro-batch: {trial.reason}"
