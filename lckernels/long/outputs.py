"""The hidden states in a model's outputs, and an output of the same class with merged ones."""

from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor, nn


class Outputs:
    """Extracts the hidden states of a model's outputs and builds one output of the same class.

    Args:
        model: the model, for error messages.
        hidden_states: whether the states of all layers are requested.
    """

    def __init__(self, model: nn.Module, hidden_states: bool) -> None:
        self.model = model
        self.hidden_states = hidden_states
        self.output_class: type | None = None
        self.last_is_layer = False
        self.is_pooled = False

    def states(self, output: Any, shape: tuple[int, int]) -> list[Tensor]:
        """The last state, then, if hidden states are requested, those of all layers.

        The last layer's state is left out where it is the last state.

        Args:
            output: the model's.
            shape: (rows, tokens per row) of the input.

        Raises:
            TypeError: the output has no hidden states, or not one for each token.
        """
        last = getattr(output, "last_hidden_state", None)
        hidden = getattr(output, "hidden_states", None)
        missing = "last_hidden_state" if last is None else "hidden_states"
        if last is None or (self.hidden_states and not hidden):
            got = f"{type(self.model).__name__} returned {type(output).__name__}, which has no {missing}"
            raise TypeError(f"model: {got}; pass the encoder itself, as AutoModel loads it, without a head")
        states = [last, *(hidden if self.hidden_states else ())]
        for i, state in enumerate(states):
            if tuple(state.shape[:-1]) != shape:
                self._wrong_shape(tuple(state.shape), shape, f" in hidden_states[{i - 1}]" if i else "")
        if self.output_class is None:
            self.output_class = type(output)
            self.is_pooled = getattr(output, "pooler_output", None) is not None
            self.last_is_layer = states[-1] is last and len(states) > 1
        return states[:-1] if self.last_is_layer else states

    def _wrong_shape(self, got: tuple[int, ...], shape: tuple[int, int], where: str) -> NoReturn:
        """Raises the TypeError for states that are not one for each token."""
        found, expected = f"states of shape {got}", f"{shape[0]} rows of {shape[1]} tokens"
        if len(got) == 3 and got[0] == shape[0]:
            found, expected = f"{got[1]} states", f"{shape[1]} tokens"
        name = type(self.model).__name__
        raise TypeError(
            f"model: got {name}, which returns {found}{where} for {expected}; expected one state per token"
        )

    def build(self, states: list[Tensor], pool: Callable[[Tensor], Tensor | None]) -> Any:
        """The model's output class with `states`, in the order of `states()`.

        Args:
            states: merged, (batch, seqlen, dim) each.
            pool: the last state -> pooler_output, where the model has one.
        """
        pooled = {"pooler_output": pool(states[0])} if self.is_pooled else {}
        hidden_states = {}
        if self.hidden_states:
            layers = (*states[1:], states[0]) if self.last_is_layer else tuple(states[1:])
            hidden_states["hidden_states"] = layers
        return self.output_class(last_hidden_state=states[0], **pooled, **hidden_states)
