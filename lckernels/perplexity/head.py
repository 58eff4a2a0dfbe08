"""A causal language model in two steps: hidden states of many tokens, then logits of a few at a time."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE_BYTES = 64 * 2**20  # of fp32 logits at a time
_ABSENT = object()
_PROBE_TOKENS = 8


@dataclass(frozen=True, eq=False)
class Hidden:
    """What the body of a model returned for a sequence.

    Attributes:
        input_ids: (1, seqlen) int64, the sequence.
        body: the module that computed them.
        output: the body's output; its states may begin with those of virtual tokens (PEFT).
    """

    input_ids: Tensor
    body: nn.Module
    output: Any

    @property
    def num_virtual(self) -> int:
        """Number of states before those of the sequence."""
        return self.output[0].shape[1] - self.input_ids.shape[1]


def hidden_states(model: nn.Module, input_ids: Tensor) -> Hidden:
    """What the model's body returns for input_ids (1, seqlen), within a forward of the whole model."""
    found: dict[nn.Module, Any] = {}
    bodies = _bodies(_language_model(model))
    handles = [body.register_forward_hook(lambda *call: found.update({call[0]: call[2]})) for body in bodies]
    try:
        first = torch.zeros(1, dtype=torch.int64, device=input_ids.device)
        model(input_ids=input_ids, use_cache=False, logits_to_keep=first)
    finally:
        for handle in handles:
            handle.remove()
    body = next((body for body in bodies if body in found), None)
    if body is None:
        raise TypeError(
            f"model: got {type(model).__name__}, whose forward does not call its model without a head"
        )
    return Hidden(input_ids, body, found[body])


def logits(model: nn.Module, hidden: Hidden, positions: Tensor) -> Tensor:
    """Logits from `hidden_states`, including what the model's forward does after its head.

    The model's own forward runs, with its body replaced by a function that returns the stored output.

    Args:
        model: a causal language model of transformers, or one in PEFT.
        hidden: of the sequence.
        positions: (num_positions,) int64, of the sequence.

    Returns:
        (num_positions, vocab_size) in the model's dtype.
    """
    with _body_replaced_by(hidden.body, hidden.output):
        keep = positions + hidden.num_virtual
        output = model(input_ids=hidden.input_ids, use_cache=False, logits_to_keep=keep)
    return output.logits[0]


def rows_at_a_time(model: nn.Module) -> int:
    """The number of tokens whose fp32 logits have PIECE_BYTES bytes."""
    return max(1, PIECE_BYTES // (4 * model.config.get_text_config().vocab_size))


def vocab_size(model: nn.Module) -> int:
    """The number of ids that the model has an embedding of."""
    table = _language_model(model).get_input_embeddings()
    return getattr(table, "num_embeddings", None) or model.config.get_text_config().vocab_size


def check_model(model: nn.Module) -> None:
    """Checks that the model can be scored, but for what `check_causal` does.

    Raises:
        TypeError: it is no causal language model of transformers.
        ValueError: it is in training mode.
    """
    name, inner = type(model).__name__, _language_model(model)
    if (
        not isinstance(model, nn.Module)
        or _body(inner) is None
        or not callable(getattr(inner, "get_output_embeddings", None))
    ):
        raise TypeError(f"model: got {name}; expected a causal language model of transformers")
    if "logits_to_keep" not in inspect.signature(inner.forward).parameters:
        raise TypeError(f"model: got {name}, whose forward has no argument logits_to_keep")
    if model.training:
        raise ValueError(f"model: got {name} in training mode; expected model.eval()")


def check_causal(model: nn.Module, device: torch.device) -> None:
    """Raises TypeError if the model's logits depend on later tokens; runs it on a few tokens on `device`."""
    if _sees_ahead(model, device):
        raise TypeError(f"model: got {type(model).__name__}, which sees the tokens that it is to predict")


def _language_model(model: nn.Module) -> nn.Module:
    """The model of transformers in one of PEFT; any other model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


def _body(model: nn.Module) -> nn.Module | None:
    """The model without its head; None if there is none."""
    base = getattr(model, "base_model", model)
    if base is not model:
        return base
    # base_model_prefix of a class may name no attribute of it.
    inner = [child for child in model.children() if hasattr(child, "base_model_prefix")]
    return inner[0] if len(inner) == 1 and hasattr(model, "base_model_prefix") else None


def _bodies(model: nn.Module) -> list[nn.Module]:
    """The model without its head, then the models in it: OPT's and BART's heads call its decoder."""
    body = _body(model)
    return [m for m in body.modules() if m is body or hasattr(m, "base_model_prefix")]


def _sees_ahead(model: nn.Module, device: torch.device) -> bool:
    """Whether the logits of the first token change with the tokens after it."""
    size, positions = (
        vocab_size(model),
        getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )
    num_ahead = min(_PROBE_TOKENS, max((positions or _PROBE_TOKENS + 1) - 1, 1))
    ahead = torch.arange(num_ahead, device=device)
    rows = [((ahead + shift) % size)[None] for shift in (0, min(num_ahead, size // 2))]
    with torch.inference_mode():
        one, two = (
            model(input_ids=F.pad(ids, (1, 0)), use_cache=False).logits[0, -1 - num_ahead].double()
            for ids in rows
        )
    # In a mixture of experts rounding may depend on the other tokens.
    rounding = min(64 * torch.finfo(model.dtype).eps, 0.05)
    return bool((one - two).abs().max() > rounding * one.abs().max())


@contextmanager
def _body_replaced_by(body: nn.Module, output: Any) -> Iterator[None]:
    """Within it the forward of `body` returns `output`."""
    own = body.__dict__.get("forward", _ABSENT)
    body.forward = lambda *_, **__: output
    try:
        yield
    finally:
        if own is _ABSENT:
            del body.forward
        else:
            body.forward = own
