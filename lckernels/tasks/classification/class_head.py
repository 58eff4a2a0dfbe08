"""The head of a model for classes, run on given states, and which of the states it reads."""

from typing import Any

import torch
from torch import Tensor, nn

from lckernels.tasks.state_head import StateHead

_SEQLEN = 8  # of the states with which the head is tried


class ClassHead:
    """The head of a model for the classes of rows, which reads states in place of the encoder's.

    Args:
        model: with a head for the classes of rows, in eval mode.
        encoder: in it.
        inputs: the model's arguments for a short row: `input_ids` (1, seqlen) and others.
        num_leading: special tokens that begin a row.

    Attributes:
        reads: "first" where the logits depend on the states of the leading special tokens alone; "mean" where
            they depend on the mean of all states; else "all". None where the model calls its encoder such
            that its states cannot be replaced.
    """

    def __init__(
        self, model: nn.Module, encoder: nn.Module, inputs: dict[str, Tensor], num_leading: int
    ) -> None:
        self._head = StateHead(model, encoder, inputs)
        # A token of the text: no padding.
        self._token = inputs["input_ids"][:, num_leading : num_leading + 1]
        self.reads = None if self._head.states is None else self._try(num_leading)

    def logits(self, states: Tensor) -> Tensor:
        """(rows, num_labels) for states (rows, seqlen, dim), each row read as a whole document."""
        return self._head.results(states, self._token.expand(-1, states.shape[1]), _logits)

    def _try(self, num_leading: int) -> str:
        states, others = self._head.random_states(2, _SEQLEN, 2)
        changed = torch.cat([states[:, :num_leading], others[:, num_leading:]], 1)
        logits = self.logits(states)
        if num_leading and torch.equal(logits, self.logits(changed)):
            return "first"
        means = states.mean(1, keepdim=True)
        spread = (logits - self.logits(others)).abs().max()
        return "mean" if (logits - self.logits(means)).abs().max() <= 1e-2 * spread else "all"


def _logits(output: Any) -> Tensor:
    return output.logits
