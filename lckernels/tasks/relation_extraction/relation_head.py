"""A relation head on pairs of entity states: a grouped bilinear form, with an adaptive threshold."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lckernels.checks import bad, integer, tensor


class RelationOutput(NamedTuple):
    """What a RelationHead returns.

    Attributes:
        logits: (num_pairs, 1 + num_relations): the threshold of the pair, then its relations. A relation
            holds where its logit is above the threshold.
        loss: the adaptive threshold loss, a mean over the pairs; None without labels.
    """

    logits: Tensor
    loss: Tensor | None


class RelationHead(nn.Module):
    """Logits of relations from the states of a head and a tail, as in ATLOP without localized contexts.

    Each of the two states goes through a linear layer and tanh; then each relation has a bilinear form that
    is block diagonal.

    Args:
        dim: of the entities' states.
        num_relations: how many relations there are; "no relation" is none of them.
        hidden: numbers of an entity in the bilinear form. Default: dim.
        block: side of a block; hidden is a multiple of it. Default: 64, at most hidden.

    Raises:
        TypeError: a size that is no integer.
        ValueError: a size below 1, or hidden that is no multiple of block.

    Source: Zhou et al., 2021, https://arxiv.org/abs/2010.11304.
    """

    def __init__(
        self, dim: int, num_relations: int, *, hidden: int | None = None, block: int | None = None
    ) -> None:
        super().__init__()
        self.dim = integer("dim", dim, 1)
        self.num_relations = integer("num_relations", num_relations, 1)
        self.hidden = integer("hidden", dim if hidden is None else hidden, 1)
        self.block = integer("block", min(64, self.hidden) if block is None else block, 1)
        if self.hidden % self.block:
            raise bad("hidden", self.hidden, f"expected a multiple of block, {self.block}")
        self.head = nn.Linear(dim, self.hidden)
        self.tail = nn.Linear(dim, self.hidden)
        self.bilinear = nn.Linear(self.hidden * self.block, 1 + num_relations)

    def forward(self, head: Tensor, tail: Tensor, labels: Tensor | None = None) -> RelationOutput:
        """The logits of each pair, and their loss.

        Args:
            head: (num_pairs, dim), as `pair_states` returns them.
            tail: (num_pairs, dim).
            labels: (num_pairs, num_relations), 1 where a relation holds, else 0; a pair may have several
                relations, or none.

        Raises:
            ValueError: shapes that do not fit.
        """
        for name, x in (("head", head), ("tail", tail)):
            tensor(name, x, 2, "(num_pairs, dim)")
            if x.shape != (len(head), self.dim):
                raise bad(
                    name,
                    f"shape {tuple(x.shape)}",
                    f"expected ({len(head)}, {self.dim}), of an encoder with hidden_size {self.dim}",
                )
        dtype = self.head.weight.dtype
        h = self.head(head.to(dtype)).tanh().view(len(head), -1, self.block, 1)
        t = self.tail(tail.to(dtype)).tanh().view(len(head), -1, 1, self.block)
        logits = self.bilinear((h * t).flatten(1))
        loss = None if labels is None else adaptive_threshold_loss(logits, labels)
        return RelationOutput(logits, loss)


def adaptive_threshold_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """ATLOP's loss: relations that hold are above the pair's threshold, the others below it.

    Args:
        logits: (num_pairs, 1 + num_relations), the threshold first; any float dtype.
        labels: (num_pairs, num_relations), 1 where a relation holds, else 0.

    Returns:
        A scalar, the mean over the pairs; float32, float64 for float64 logits.

    Raises:
        ValueError: labels of another shape.
    """
    tensor("labels", labels, 2, "(num_pairs, num_relations)")
    expected = (len(logits), logits.shape[1] - 1)
    if labels.shape != expected:
        raise bad("labels", f"shape {tuple(labels.shape)}", f"expected {expected}, without the threshold")
    if logits.dtype != torch.float64:
        logits = logits.float()
    holds = labels.to(logits.device) > 0
    threshold, relations = logits[:, :1], logits[:, 1:]
    above = torch.cat([threshold, relations.masked_fill(~holds, -torch.inf)], 1).logsumexp(1)
    below = torch.cat([threshold, relations.masked_fill(holds, -torch.inf)], 1).logsumexp(1)
    positive = (above[:, None] - relations).masked_fill(~holds, 0).sum(1)
    return (positive + below - threshold[:, 0]).mean()
