"""The head of a model, run on given states in place of its encoder's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.pooling import pool, pooling_way

_ROWS = 256  # that share a call of the head


class StateHead:
    """The head of a model, which reads states in place of the encoder's.

    Args:
        model: with a task head, in eval mode.
        encoder: in it.
        inputs: the model's arguments for a short row: `input_ids` (1, seqlen) and others.

    Attributes:
        states: (1, seqlen, dim), the encoder's for the short row, virtual tokens included. None where the
            model calls its encoder such that its states cannot be replaced.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, encoder: nn.Module, inputs: dict[str, Tensor]) -> None:
        self.model, self.encoder = model, encoder
        output = self._output_of_encoder(inputs)
        self.states: Tensor | None = getattr(output, "last_hidden_state", None)
        if self.states is None:
            return
        pooled = getattr(output, "pooler_output", None)
        self._is_pooled, self._class = pooled is not None, type(output)
        self._way = pooling_way(encoder, self.states, pooled) if self._is_pooled else ""

    @torch.no_grad()
    def results(self, states: Tensor, ids: Tensor, read: Callable[[Any], Tensor]) -> Tensor:
        """What `read` returns of the model's output, (rows, ...), all rows in one tensor.

        Args:
            states: (rows, seqlen, dim), each row a whole document.
            ids: (1, num_ids) int64, the tokens of each row for a model that looks at them.
            read: of the output for some of the rows.
        """
        parts = []
        for some in states.to(self.states).split(_ROWS):
            fields = {"pooler_output": pool(self.encoder, self._way, some)} if self._is_pooled else {}
            output = self._class(last_hidden_state=some, **fields)
            row = ids.expand(len(some), -1)
            inputs = {"input_ids": row, "attention_mask": torch.ones_like(row)}
            with _forward(self.encoder, lambda *args, output=output, **kwargs: output):
                parts.append(read(self.model(**inputs, return_dict=True)))
        return torch.cat(parts)

    def random_states(self, rows: int, seqlen: int, count: int) -> list[Tensor]:
        """`count` tensors (rows, seqlen, dim) fp32 on the CPU, the same each time, to try the head with."""
        generator = torch.Generator().manual_seed(0)
        shape = (rows, seqlen, self.states.shape[2])
        return [torch.randn(shape, generator=generator, device="cpu") for _ in range(count)]

    def _output_of_encoder(self, inputs: dict[str, Tensor]) -> Any:
        outputs, own = [], self.encoder.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            outputs.append(own(*args, **kwargs))
            return outputs[-1]

        with _forward(self.encoder, forward):
            self.model(**inputs, return_dict=True)
        return outputs[-1] if len(outputs) == 1 else None


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
