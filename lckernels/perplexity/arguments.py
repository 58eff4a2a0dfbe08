"""Checks of the arguments of `score` and `compare`, and their defaults."""

from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad, integer
from lckernels.perplexity.windows import Window, windows
from lckernels.prompts import num_virtual_tokens

DEFAULT_CONTEXT = 8192  # of a model with more positions
BOS = ("every", "first")
_IDS = "expected integers (num_tokens,) or (1, num_tokens)"


def check_sizes(
    context: int | None, stride: int | None, window: Any = None, sink_tokens: int | None = None
) -> tuple[int | None, int | None, Any, int | None]:
    """The four sizes with Python's integers; None is a default.

    Raises:
        TypeError: a size that is no integer.
        ValueError: sizes that fit no model.
    """
    context = None if context is None else integer("context", context)
    stride = None if stride is None else integer("stride", stride)
    if context is not None and context < 2:
        raise bad("context", context, "expected at least 2, a token and one before it")
    if stride is not None and (stride < 1 or stride > (context or stride)):
        limit = "" if context is None else f" <= context = {context}"
        raise bad("stride", stride, f"expected 1 <= stride{limit}")
    if window is not None or sink_tokens is not None:
        from lckernels.hf.patch.arguments import check_window

        window, sink_tokens = check_window(window, sink_tokens)
    return context, stride, window, sink_tokens


def fit(model: nn.Module, context: int | None, stride: int | None, repeated: int = 0) -> tuple[int, int]:
    """context and stride with their defaults; stride is reduced to context - repeated.

    Args:
        model: the model; with prompt learning (PEFT) its virtual tokens take positions.
        context: as in `score`.
        stride: as in `score`.
        repeated: tokens that every context begins with.

    Raises:
        ValueError: sizes that do not fit the model.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    positions = positions and positions - num_virtual_tokens(model)
    if context is None:
        context = min(positions or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    if positions is not None and context > positions:
        raise bad("context", context, f"{type(model).__name__} has {positions} positions")
    context, stride, *_ = check_sizes(context, context // 2 if stride is None else stride)
    if repeated >= context:
        raise bad(
            "context", context, f"expected more than the {repeated} tokens that each context begins with"
        )
    return context, min(stride, context - repeated)


def token_ids(input_ids: Any, vocab_size: int) -> Tensor:
    """(1, num_tokens) int64, on the device of `input_ids`.

    Raises:
        TypeError: no integers.
        ValueError: another shape, or ids outside the vocabulary.
    """
    try:
        ids = torch.as_tensor(input_ids)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"input_ids: got {type(input_ids).__name__}; {_IDS}") from None
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"input_ids: got dtype {ids.dtype}; {_IDS}")
    if ids.dim() not in (1, 2) or (ids.dim() == 2 and len(ids) != 1):
        raise bad("input_ids", f"shape {tuple(ids.shape)}", f"{_IDS}, one sequence")
    ids = ids.reshape(1, -1).to(torch.int64)
    if ids.numel() < 2:
        raise bad("input_ids", f"{ids.numel()} tokens", "expected at least 2, one to score another by")
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        found = f"ids from {int(ids.min())} to {int(ids.max())}"
        raise bad("input_ids", found, f"expected 0 <= id < {vocab_size}, the model's vocabulary")
    return ids


def repeated_tokens(bos: str | None, given: Any, input_ids: Tensor, bos_token_id: int | None) -> int:
    """The number of tokens at the start that every context begins with: `given`, or 0.

    Several `given` tokens may be a prompt, which only bos="every" repeats.

    Args:
        bos: as in `score`.
        given: as in `score`.
        input_ids: (1, num_tokens).
        bos_token_id: of the model's config.

    Raises:
        ValueError: an unknown `bos`, or a `given` that leaves no token to score.
    """
    given = integer("given", given, 0, input_ids.shape[1] - 1)
    if bos is None:
        begins = given == 1 and bos_token_id is not None and int(input_ids[0, 0]) == bos_token_id
        bos = "every" if begins else "first"
    if bos not in BOS:
        raise bad("bos", repr(bos), f"allowed are {', '.join(map(repr, BOS))} and None")
    if bos == "every" and given == 0:
        raise bad("given", given, "bos='every' repeats the first `given` tokens, expected at least 1")
    return given if bos == "every" else 0


def scored_windows(num_tokens: int, context: int, stride: int, given: int, repeated: int) -> list[Window]:
    """The windows of the text. Raises ValueError if they score no token."""
    found = windows(num_tokens, context, stride, given, repeated=repeated)
    if not found:
        got = f"{given} of {num_tokens} tokens, with context {context} and stride {stride}"
        raise bad("given", got, "expected one that leaves a token to score")
    return found
