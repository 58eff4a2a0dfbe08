"""A causal language model in two steps: hidden states of many tokens, then logits of a few at a time."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE_BYTES = 64 * 2**20  # of the fp32 logits of one piece
_ABSENT = object()
_PROBE_TOKENS = 8


def hidden_states(model: nn.Module, input_ids: Tensor) -> Any:
    """The output of the model without its head on input_ids (1, seqlen)."""
    return model.base_model(input_ids=input_ids, use_cache=False)


def logits(model: nn.Module, hidden: Any, input_ids: Tensor, positions: Tensor) -> Tensor:
    """(len(positions), vocab): what the model makes of its `hidden_states` there, in its dtype.

    The model's own forward runs with its body left out, so that whatever it does behind the head is done.
    """
    with _body_that_gives(model.base_model, hidden):
        output = model(input_ids=input_ids, use_cache=False, logits_to_keep=positions)
    return output.logits[0]


def rows_at_a_time(model: nn.Module) -> int:
    """Tokens whose fp32 logits take PIECE_BYTES."""
    return max(1, PIECE_BYTES // (4 * model.config.get_text_config().vocab_size))


def check_model(model: nn.Module) -> None:
    """Raises TypeError for what is no causal language model of transformers or sees what it is to predict,
    ValueError for one in training mode."""
    name, base = type(model).__name__, getattr(model, "base_model", model)
    if base is model or not callable(getattr(model, "get_output_embeddings", None)):
        raise TypeError(f"model: got {name}; expected a causal language model of transformers")
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        raise TypeError(f"model: got {name}, whose forward does not take logits_to_keep")
    if model.training:
        raise ValueError(f"model: got {name} in training mode; expected model.eval()")
    if _sees_ahead(model):
        raise TypeError(f"model: got {name}, which sees the tokens that it is to predict")


def _sees_ahead(model: nn.Module) -> bool:
    """Whether the logits of the first token change with the tokens behind it."""
    behind = torch.arange(2 * _PROBE_TOKENS, device=model.device).view(2, 1, _PROBE_TOKENS)
    with torch.inference_mode():
        one, two = (
            model(input_ids=F.pad(ids, (1, 0)), use_cache=False).logits[0, 0].double() for ids in behind
        )
    # In a mixture of experts rounding may depend on the other tokens.
    rounding = min(64 * torch.finfo(model.dtype).eps, 0.05)
    return bool((one - two).abs().max() > rounding * one.abs().max())


@contextmanager
def _body_that_gives(body: nn.Module, output: Any) -> Iterator[None]:
    """`body` returns `output` whatever it is called with."""
    own = body.__dict__.get("forward", _ABSENT)
    given: Callable[..., Any] = lambda *_, **__: output  # noqa: E731
    body.forward = given
    try:
        yield
    finally:
        if own is _ABSENT:
            del body.forward
        else:
            body.forward = own
