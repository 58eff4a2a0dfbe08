"""Short rows for a trial run, and a model's states for them."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.batches import embedding_size
from lckernels.long.outputs import Outputs
from lckernels.long.positions import usable_positions

_WIDTH = 16  # tokens of the longest row
# Experts multiply more or fewer tokens at a time, and round otherwise: at most by 8e-7 where measured.
_EXPERTS_ROUNDING = 16 * torch.finfo(torch.float32).eps


class RunError(Exception):
    """There are no short rows for the model, or it raised an error for them."""


class ShortRows:
    """Short rows, and a model's states for them.

    Args:
        model: the model.
        device: of the rows.
        call: what runs the model. Default: the model.

    Attributes:
        width: tokens of a row.
        text: (1, width) token ids, or (1, width, dim) embeddings.
        other: another row of this shape.

    Raises:
        RunError: the model takes embeddings of unknown size.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, call: Callable[..., Any] | None = None
    ) -> None:
        self.model = model
        self.call = call or model
        self.width = min(_WIDTH, (usable_positions(model) or (_WIDTH,))[0])
        parameters = inspect.signature(model.forward).parameters
        takes_ids = "input_ids" in parameters or "inputs_embeds" not in parameters
        self.argument = "input_ids" if takes_ids else "inputs_embeds"
        self.padding = (getattr(model.config, "pad_token_id", None) or 0) if takes_ids else 0
        if takes_ids:
            self.text = _token_ids(model, self.width, self.padding).to(device)
        else:
            generator = torch.Generator().manual_seed(0)
            parameter = next(model.parameters(), None)
            dtype = torch.get_default_dtype() if parameter is None else parameter.dtype
            dim = getattr(model.config, "hidden_size", None)
            if dim is None:
                raise RunError("its config has no hidden_size")
            size = (1, self.width, dim)
            self.text = torch.randn(size, generator=generator, device="cpu").to(device, dtype)
        self.other = self.text.flip(1)

    def states(self, rows: Tensor, tokens: int | None = None) -> Tensor:
        """(rows, width, dim); the first row is padded after so many tokens, if they are given."""
        return self._padded(rows, slice(0, 0) if tokens is None else slice(tokens, None))

    def _padded(self, rows: Tensor, columns: slice) -> Tensor:
        """(rows, width, dim); these columns of the first row are padding."""
        inputs = {self.argument: rows}
        if rows[:, columns].numel():
            mask = torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device)
            mask[0, columns] = 0
            inputs = {self.argument: rows.clone(), "attention_mask": mask}
            inputs[self.argument][0, columns] = self.padding
        try:
            output = self.call(**inputs, return_dict=True)
        except Exception as error:  # whatever stops the model is the result
            message = str(error).strip().partition("\n")[0]
            raise RunError(f"{type(error).__name__}: {message}") from error
        return Outputs(self.model, False).states(output, tuple(rows.shape[:2]))[0]

    def has(self, alone: Tensor, rows: Tensor) -> bool:
        """Whether the first of `rows` has the states `alone`; if it is wider, the rest of it is padding."""
        tokens = alone.shape[1]
        try:
            states = self.states(rows, tokens if tokens < rows.shape[1] else None)[:1, :tokens]
        except RunError:
            return False
        return is_same(alone, states)

    def see_later(self) -> bool | None:
        """Whether the state of a token changes with a later one.

        None if that cannot be judged: the change is as small as an error of rounding may be, or a token
        changes no other token's state at all.
        """
        last, middle = self.width - 1, (self.width - 1) // 2
        if middle == last:
            return None
        try:
            states = self.states(self.text)
            seen = self._changes(states, last)[0]
            if seen <= _EXPERTS_ROUNDING:
                # The last token may be alone in its block of attention; that in the middle is not.
                before, after = self._changes(states, middle)
                seen = max(seen, before)
                if seen <= _EXPERTS_ROUNDING < after:
                    return False
        except RunError:
            return None
        return True if seen > _rounding(states) ** 0.75 else None

    def depend_on_position(self) -> str:
        """How the states of a row depend on where its tokens are, in words; empty if they do not.

        Tokens at other distances from each other are no change of position.

        Raises:
            RunError: the model raised an error, or its states are no numbers.
        """
        middle, shift = (self.width - 1) // 2, self.width // 3
        # Whatever the attention, a mean of equal values is that value.
        states = self.states(self.text[:, middle : middle + 1].expand_as(self.text))
        if not are_numbers(states):
            raise RunError("its states are zero or not finite")
        if not is_same(states[:, :1].expand_as(states), states):
            return "a token that is repeated has other states at other positions of a row"
        alone, shifted = self.states(self.text[:, shift:]), self._padded(self.text, slice(0, shift))
        if not is_same(alone, shifted[:, shift:]):
            return "the states of a row change with padding before it"
        return ""

    def are_mixed(self) -> bool:
        """Whether the state of a token changes with another one.

        Raises:
            RunError: the model raised an error.
        """
        states = self.states(self.text)
        return max(self._changes(states, (self.width - 1) // 2)) > _rounding(states) ** 0.6

    def _changes(self, states: Tensor, at: int) -> tuple[float, float]:
        """How much the states before a token, and those after it, change with the token."""
        changed = self.text.clone()
        changed[:, at] = self.text[:, 0 if at == self.width - 1 else -1]
        others = self.states(changed)
        before, after = slice(0, at), slice(at + 1, None)
        return _distance(states[:, before], others[:, before]), _distance(states[:, after], others[:, after])


def are_numbers(states: Tensor) -> bool:
    """Whether states are finite, and not all zero."""
    return 0 < float(states.abs().max()) < float("inf")  # False of NaN too


def is_same(expected: Tensor, actual: Tensor) -> bool:
    """Whether two results of a model are equal up to rounding."""
    # Rounding is 30 times smaller, and a real difference as much larger, in every encoder measured.
    return _distance(expected, actual) <= _rounding(expected) ** 0.6


def _rounding(states: Tensor) -> float:
    """The relative rounding error of one operation; models of fp64 normalize in fp32."""
    return max(torch.finfo(states.dtype).eps, torch.finfo(torch.float32).eps)


def _distance(expected: Tensor, actual: Tensor) -> float:
    """The largest difference, relative to the largest value; 0 of no states."""
    if not expected.numel():
        return 0.0
    expected, actual = expected.double(), actual.double()
    return float((actual - expected).abs().max() / expected.abs().max())


def _token_ids(model: nn.Module, width: int, padding: int) -> Tensor:
    """(1, width) ids, spread over the vocabulary, none of them padding."""
    sizes = (getattr(model.config, "vocab_size", None), embedding_size(model))
    size = min((size for size in sizes if isinstance(size, int)), default=128)
    ids = [(2 * i + 1) * size // (2 * width) for i in range(width)]
    ids = [i if i != padding else (i + 1) % size for i in ids]
    return torch.tensor([ids], device="cpu")
