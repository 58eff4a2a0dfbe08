"""The head of a model for classes, run on given states, and which of the states it reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.pooling import pool, pooling_way

_ROWS = 256  # that share a call of the head
_SEQLEN = 8  # of the states with which the head is tried


class ClassHead:
    """The head of a model, which reads states in place of the encoder's.

    Args:
        model: with a head for the classes of rows, in eval mode.
        encoder: in it.
        inputs: the model's arguments for a short row: `input_ids` (1, seqlen) and others.
        num_leading: special tokens that begin a row.

    Attributes:
        reads: "first" where the logits depend on the states of the leading special tokens alone; "mean" where
            they depend on the mean of all states; else "all". None where the model calls its encoder such
            that its states cannot be replaced.
        dtype: of the encoder's states.
        token: (1, 1) int64, the id of a token of a text.
    """

    @torch.no_grad()
    def __init__(
        self, model: nn.Module, encoder: nn.Module, inputs: dict[str, Tensor], num_leading: int
    ) -> None:
        self.model, self.encoder = model, encoder
        output = self._output_of_encoder(inputs)
        states = getattr(output, "last_hidden_state", None)
        self.reads, self._way = None, ""
        if states is None:
            return
        pooled = getattr(output, "pooler_output", None)
        self._is_pooled = pooled is not None
        self._way = pooling_way(encoder, states, pooled) if self._is_pooled else ""
        self._class, self.dtype = type(output), states.dtype
        row = inputs["input_ids"]
        self.token = row[:, num_leading : num_leading + 1]  # of the text: no padding
        self.reads = self._try(states, num_leading)

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """(rows, num_labels) for states (rows, seqlen, dim), each row read as a whole document."""
        device = self.token.device
        parts = []
        for some in states.to(device, self.dtype).split(_ROWS):
            fields = {"pooler_output": pool(self.encoder, self._way, some)} if self._is_pooled else {}
            output = self._class(last_hidden_state=some, **fields)
            ids = self.token.expand(some.shape[:2])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            with _forward(self.encoder, lambda *args, output=output, **kwargs: output):
                parts.append(self.model(**inputs, return_dict=True).logits)
        return torch.cat(parts)

    def _output_of_encoder(self, inputs: dict[str, Tensor]) -> Any:
        outputs, own = [], self.encoder.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            outputs.append(own(*args, **kwargs))
            return outputs[-1]

        with _forward(self.encoder, forward):
            self.model(**inputs, return_dict=True)
        return outputs[-1] if len(outputs) == 1 else None

    def _try(self, like: Tensor, num_leading: int) -> str:
        generator = torch.Generator().manual_seed(0)
        shape = (2, _SEQLEN, like.shape[2])
        states, others = (torch.randn(shape, generator=generator, device="cpu") for _ in range(2))
        changed = torch.cat([states[:, :num_leading], others[:, num_leading:]], 1)
        logits = self.logits(states)
        if num_leading and torch.equal(logits, self.logits(changed)):
            return "first"
        means = states.mean(1, keepdim=True)
        spread = (logits - self.logits(others)).abs().max()
        return "mean" if (logits - self.logits(means)).abs().max() <= 1e-2 * spread else "all"


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module's instance has another forward within."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before
