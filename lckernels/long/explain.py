"""What a LongEncoder will do with a text, said before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lckernels.long.arguments import sequence_lengths
from lckernels.long.chunking import chunk_documents, micro_batches
from lckernels.long.layer_rows import PackedRows
from lckernels.long.limits import is_transformers_model

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder

_MERGED = {"final": "of the results", "layer": "in every layer, after attention"}
_LOSSES = {
    "final": "a token sees its chunk, not the whole text",
    "layer": "a layer sees a token's chunks, not the whole text; a token has one position for all of them",
}


@dataclass(frozen=True)
class Explanation:
    """Sizes in tokens, memory in bytes, arithmetic in floating point operations (a multiply-add is two).

    merge             as LongEncoder was given it; with "layer" a micro-batch is one row of whole texts
    attention         "lckernels", in how many layers if not in all, or why the model keeps its own
    halo              a token at a seam has at least so many tokens of context on either side in its better
                      chunk; None if no text has a seam
    recompute_factor  tokens read, prefix and special tokens included, per token of the text; with
                      merge="layer" a token is read once, but attention runs as often as a chunk has it
    exact             the result is the model's own, not an approximation of one with more positions
    output_bytes      the merged last_hidden_state
    buffer_bytes      the chunks' hidden states before the merge (once for each state that is asked for);
                      none with merge="layer"
    batch_bytes       estimate of the largest micro-batch's activations in one layer, without gradients
    flops             matrix products of the encoder; None if its config does not tell its sizes
    flops_one_piece   the same for a model that reads each text at once
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
    recompute_factor: float
    exact: bool
    output_bytes: int
    buffer_bytes: int
    batch_bytes: int | None
    flops: int | None
    flops_one_piece: int | None

    def __str__(self) -> str:
        halo = "none needed, every text is one chunk"
        if self.halo is not None:
            halo = f"{self.halo:,} tokens at least"
        verdict = "exact" if self.exact else f"approximate: {_LOSSES[self.merge]}"
        texts = "1 text" if self.num_documents == 1 else f"{self.num_documents:,} texts"
        batch_bytes = "" if self.batch_bytes is None else f", about {_bytes(self.batch_bytes)} a micro-batch"
        lines = [
            f"{texts}, {self.seqlen:,} tokens",
            f"chunks       {self.num_chunks:,} of up to {self.chunk_len:,} tokens, overlap {self.overlap:,}, "
            f"weights {self.weights}, in {self.num_micro_batches:,} micro-batches",
            f"merge        {_MERGED[self.merge]}",
            f"attention    {self.attention}",
            f"result       {verdict}",
            f"halo         {halo}",
            f"recompute    {self.recompute_factor:.2f} tokens read per token",
            f"memory       {_bytes(self.output_bytes)} result, {_bytes(self.buffer_bytes)} chunks"
            + batch_bytes,
        ]
        if self.flops is not None:
            one_piece = f"{_flops(self.flops_one_piece)} for a model that reads it at once"
            lines.append(f"arithmetic   {_flops(self.flops)}; {one_piece}")
        return "\n".join(lines)


def explain(encoder: "LongEncoder", seqlen: int | Sequence[int]) -> Explanation:
    """The explanation of `LongEncoder.explain`."""
    chunking = encoder.chunking
    tokens = sequence_lengths("seqlen", seqlen, chunking.num_special)
    lengths = tokens.tolist()
    chunks = chunk_documents(tokens.cumsum(0) - tokens, tokens, sum(lengths), replace(chunking, rule="sled"))
    widths = chunks.widths
    one_piece = chunks.num_chunks == len(lengths)
    sizes = _sizes(encoder.config)
    dtype_bytes = torch.finfo(encoder.dtype).bits // 8
    hidden = getattr(encoder.config, "hidden_size", 0)
    layer = encoder.merge == "layer"
    if layer:
        batch_tokens = PackedRows(chunks, chunking, encoder.max_tokens).num_tokens()
    else:
        batch_tokens = [(b - a) * widths[a] for a, b in micro_batches(widths, encoder.max_tokens)]
    read = sum(batch_tokens) if layer else sum(widths)
    largest = max(batch_tokens)
    # A row's feed-forward runs in pieces.
    wide = min(largest, encoder.max_tokens) if layer else largest
    # A model that merge="layer" takes runs on lckernels in every layer.
    attention = "lckernels" if layer else _attention(encoder, max(widths))
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
        recompute_factor=read / sum(lengths),
        exact=one_piece and chunking.num_prefix == 0,
        output_bytes=chunks.total_len * hidden * dtype_bytes,
        buffer_bytes=0 if layer else chunks.num_chunks * chunks.chunk_len * hidden * dtype_bytes,
        batch_bytes=sizes and dtype_bytes * _layer_values(largest, wide, *sizes[1:]),
        flops=sizes and _encoder_flops(read, widths, *sizes),
        flops_one_piece=sizes and _encoder_flops(sum(lengths), lengths, *sizes),
    )


def _attention(encoder: "LongEncoder", seqlen: int) -> str:
    """The attention of chunks of `seqlen` tokens in words."""
    if encoder.attention == "auto" and not is_transformers_model(encoder.model):
        return "the model's own: it is no model of transformers"
    from lckernels.hf.support import attention_backend

    return attention_backend(encoder.model, encoder.attention, seqlen)


def _sizes(config: object) -> tuple[int, int, int] | None:
    """(layers, hidden, feed-forward), or None if the config does not name them."""
    feed_forward = getattr(config, "intermediate_size", getattr(config, "hidden_dim", None))
    found = (getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None), feed_forward)
    return found if all(isinstance(size, int) for size in found) else None


def _encoder_flops(tokens: int, pieces: list[int], layers: int, hidden: int, feed_forward: int) -> int:
    """Per layer projections 8 n d^2, feed-forward 4 n d f of the tokens; attention 4 n^2 d of each piece."""
    attention = sum(length * length for length in pieces)
    return layers * 4 * hidden * (tokens * (2 * hidden + feed_forward) + attention)


def _layer_values(tokens: int, wide: int, hidden: int, feed_forward: int) -> int:
    """Residual, q, k, v, attention, its projection; feed-forward and its activation, of `wide` tokens."""
    return 6 * hidden * tokens + 2 * feed_forward * wide


def _bytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _flops(count: int) -> str:
    return f"{count / 1e12:.2f} TFLOP" if count >= 1e12 else f"{count / 1e9:.2f} GFLOP"
