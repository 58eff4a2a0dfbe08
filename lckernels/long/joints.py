"""Joints: marker rows between the states that neighbouring chunks contribute, for a decoder."""

import torch
from torch import Tensor, nn

from lckernels.checks import bad, integer
from lckernels.devices import execution_device
from lckernels.long.batches import Batch, num_token_ids
from lckernels.long.chunking import Chunks
from lckernels.long.seams import SeamRule, seams


class Joints:
    """What a joint is, and which rows of states get how many.

    Attributes:
        marker: a token id, whose row of the encoder's embedding is the joint, or the joint, (dim,).
        rule: how many a row has.
    """

    def __init__(self, marker: int | Tensor, rule: SeamRule) -> None:
        self.marker, self.rule = marker, rule

    def __str__(self) -> str:
        what = (
            "a given vector" if isinstance(self.marker, Tensor) else f"the embedding of token {self.marker}"
        )
        return f"{what}, between the states that two chunks contribute"

    def unpack(self, model: nn.Module, batch: Batch, chunks: Chunks, packed: list[Tensor]) -> list[Tensor]:
        """(batch, seqlen + added, dim) each: states with a joint at each seam, zero in padding.

        Args:
            model: the encoder.
            batch: of the call.
            chunks: its chunks.
            packed: states (total_len, dim).
        """
        positions, documents = seams(chunks)
        found = torch.bincount(documents, minlength=chunks.num_documents)
        added = self.rule.added(found, batch.lengths)
        if not added:
            return [batch.unpack(states) for states in packed]
        rows, seqlen = batch.shape[0], batch.shape[1] + added
        # Where a document's first token goes, less its place in the packed states.
        shift = batch.first + torch.arange(rows, device="cpu") * seqlen - chunks.cu_seqlens[:-1]
        before = found.cumsum(0) - found  # seams of earlier documents
        token = torch.arange(chunks.total_len, device="cpu")
        document = torch.arange(rows, device="cpu").repeat_interleave(batch.lengths)
        earlier = torch.searchsorted(positions, token, right=True) - before[document]
        tokens = token + shift[document] + earlier
        order = torch.arange(len(positions), device="cpu") - before[documents]
        joints = positions + shift[documents] + order
        marker = self._row(model, packed[0])
        placed = (_placed(states, tokens, joints, marker, rows * seqlen) for states in packed)
        return [states.view(rows, seqlen, -1) for states in placed]

    def mask(self, mask: Tensor, num_states: int) -> Tensor:
        """(batch, num_states): the mask (batch, seqlen) of the tokens, with the joints.

        Raises:
            ValueError: a mask of another rank, or of rows that do not have so many joints.
        """
        if mask.dim() != 2:
            expected = "expected (batch, seqlen), to which the joints are added"
            raise bad("attention_mask", f"{mask.dim()} dimensions", expected)
        is_token = mask != 0
        first, lengths = is_token.long().argmax(1), is_token.sum(1)
        added = num_states - mask.shape[1]
        number = self.rule.of_batch(lengths, added)
        if mask.device.type == "cpu" and int(number.max()) not in (added, added - 1):
            got = f"{mask.shape[1]} columns for {num_states} states, joints included"
            raise bad("attention_mask", got, "expected that of the tokens, or one with the joints")
        column = torch.arange(num_states, device=mask.device)
        inside = (column >= first[:, None]) & (column < (first + lengths + number)[:, None])
        return inside.to(mask.dtype)

    def _row(self, model: nn.Module, like: Tensor) -> Tensor:
        """(1, dim), the joint on the states' device and in their dtype."""
        if isinstance(self.marker, Tensor):
            return self.marker[None].to(like)
        embedding = model.get_input_embeddings()
        device = execution_device(embedding, next(embedding.parameters(), like))
        return embedding(torch.tensor([self.marker], device=device)).to(like)


def _placed(states: Tensor, tokens: Tensor, joints: Tensor, marker: Tensor, num_rows: int) -> Tensor:
    """(num_rows, dim): states in the rows `tokens`, the marker in the rows `joints`, else zero."""
    placed = states.new_zeros(num_rows, states.shape[1])
    placed = placed.index_copy_(0, tokens.to(states.device), states)
    return placed.index_copy_(0, joints.to(states.device), marker.expand(len(joints), -1))


def check_marker(joints: int | Tensor, model: nn.Module, decoder: nn.Module | None) -> int | Tensor:
    """The marker of `joints`.

    Raises:
        TypeError: neither an int nor a tensor.
        ValueError: a model without a decoder, a token id that the encoder lacks, a vector of another size.
    """
    name = type(model).__name__
    if decoder is None:
        got = f"{name}, which no decoder reads"
        raise bad("joints", got, "expected None: a head reads one state per token")
    dim = getattr(model.config, "hidden_size", None)
    if isinstance(joints, Tensor):
        if joints.dim() != 1 or not joints.is_floating_point() or dim not in (None, len(joints)):
            got = f"shape {tuple(joints.shape)} of {joints.dtype}"
            raise bad("joints", got, f"expected ({dim or 'dim'},) floating point, or a token id")
        return joints
    size = num_token_ids(model)
    token = integer("joints", joints, 0, alternative=f" or a tensor ({dim or 'dim'},)")
    if size is not None and token >= size:
        raise bad("joints", token, f"the embedding of {name} has the ids 0 to {size - 1}")
    own = getattr(model.get_input_embeddings(), "embedding_dim", dim)
    if own != dim:
        got = f"token {token}, whose embedding has {own} values"
        raise bad("joints", got, f"the states of {name} have {dim}; expected a tensor ({dim},)")
    return token
