"""A causal language model in two steps: hidden states of many tokens, then logits of a few at a time."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE_BYTES = 64 * 2**20  # of fp32 logits at a time
_ABSENT = object()
_PROBE_TOKENS = 8


def hidden_states(model: nn.Module, input_ids: Tensor) -> Any:
    """The output of the model without its head on input_ids (1, seqlen)."""
    return model.base_model(input_ids=input_ids, use_cache=False)


def logits(model: nn.Module, hidden: Any, input_ids: Tensor, positions: Tensor) -> Tensor:
    """Logits from the output of `hidden_states`, including what the model's forward does after its head.

    The model's own forward runs, with its body replaced by a function that returns `hidden`.

    Args:
        model: a causal language model of transformers.
        hidden: output of the model's body on input_ids.
        input_ids: (1, seqlen) int64.
        positions: (num_positions,) int64.

    Returns:
        (num_positions, vocab_size) in the model's dtype.
    """
    with _body_replaced_by(model.base_model, hidden):
        output = model(input_ids=input_ids, use_cache=False, logits_to_keep=positions)
    return output.logits[0]


def rows_at_a_time(model: nn.Module) -> int:
    """The number of tokens whose fp32 logits have PIECE_BYTES bytes."""
    return max(1, PIECE_BYTES // (4 * model.config.get_text_config().vocab_size))


def check_model(model: nn.Module) -> None:
    """Checks that the model can be scored.

    Raises:
        TypeError: it is no causal language model of transformers, or its logits depend on later tokens.
        ValueError: it is in training mode.
    """
    name, base = type(model).__name__, getattr(model, "base_model", model)
    if base is model or not callable(getattr(model, "get_output_embeddings", None)):
        raise TypeError(f"model: got {name}; expected a causal language model of transformers")
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise TypeError(f"model: got {name}, whose forward has no argument logits_to_keep")
    if model.training:
        raise ValueError(f"model: got {name} in training mode; expected model.eval()")
    if _sees_ahead(model):
        raise TypeError(f"model: got {name}, which sees the tokens that it is to predict")


def _sees_ahead(model: nn.Module) -> bool:
    """Whether the logits of the first token change with the tokens after it."""
    behind = torch.arange(2 * _PROBE_TOKENS, device=model.device).view(2, 1, _PROBE_TOKENS)
    with torch.inference_mode():
        one, two = (
            model(input_ids=F.pad(ids, (1, 0)), use_cache=False).logits[0, 0].double() for ids in behind
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
