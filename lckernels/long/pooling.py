"""The pooler_output of merged states: an encoder's own pooler, run once on the whole sequence."""

from typing import Any

from torch import Tensor, nn


def pool(model: nn.Module, states: Tensor) -> Tensor | None:
    """The model's pooler_output for states (batch, seqlen, dim); None for a model without a pooler.

    Raises:
        TypeError: the model has a pooler of another kind than those of encoders of text.
    """
    pooler: Any = getattr(model, "pooler", None)
    if pooler is None:
        return None
    if isinstance(pooler, nn.Linear):  # of ALBERT
        return model.pooler_activation(pooler(states[:, 0]))
    if not isinstance(pooler, nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, whose pooler is a {type(pooler).__name__}")
    return pooler(states)
