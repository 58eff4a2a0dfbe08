"""The linear layers of a LongEncoder's model: packed weights within its calls, or the model's own.

`lckernels.hf` is imported within functions, since it requires transformers; other modules do not.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from lckernels.hf.linear_report import LinearReport
    from lckernels.hf.patch.linear.choice import LinearChoice


class LinearContexts:
    """The contexts of a LongEncoder's calls: packed weights in the model's linear layers.

    They are packed at the first call, and again at a call that finds other layers, dtypes or devices.
    """

    def __init__(self) -> None:
        self._choice: LinearChoice | None = None

    def __reduce__(self) -> tuple:
        return LinearContexts, ()  # a copy's model is another one

    @property
    def report(self) -> "LinearReport | None":
        """Of the last packing; None before it."""
        return None if self._choice is None else self._choice.report

    def of(self, model: nn.Module, linear: str | None) -> AbstractContextManager[None]:
        """The context of a call, for this thread."""
        if linear is None or torch.compiler.is_compiling():
            return nullcontext()
        choice = self._choice
        if choice is None or not choice.holds(model):
            from lckernels.hf.patch.linear.choice import LinearChoice

            choice = self._choice = LinearChoice(model)
        return choice.context()
