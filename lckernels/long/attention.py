"""Whose attention a LongEncoder's model runs on: its own, or lckernels' through transformers' interface."""

import sys
from contextlib import AbstractContextManager

import torch
from torch import nn

from lckernels.backends.registry import BackendError, Problem, choose, why_no_kernel
from lckernels.checks import bad

ATTENTIONS = ("auto", "lckernels", "model")


def check_attention(model: nn.Module, attention: str) -> None:
    """Raises ValueError for a name that is none, TypeError for a model that cannot have it."""
    if attention not in ATTENTIONS:
        raise bad("attention", repr(attention), f"allowed are {', '.join(ATTENTIONS)}")
    why = cannot_be_replaced(model) if attention == "lckernels" else []
    if why:
        raise TypeError(f"model: got {type(model).__name__}; attention='lckernels' cannot serve it: {why[0]}")


def reasons_against(model: nn.Module, attention: str, seqlen: int) -> list[str]:
    """Why a call with rows of `seqlen` tokens keeps the model's own attention; empty when it does not.

    "auto" replaces torch's attention only, and only where a backend of lckernels has a kernel for it.
    """
    if attention != "auto":
        return [] if attention == "lckernels" else ["attention='model'"]
    why = _no_interface(model)
    if why:
        return why
    chosen = getattr(model.config, "_attn_implementation", None)
    if chosen != "sdpa":
        return [f"the model was given {chosen!r}"]
    from lckernels.hf.changes import is_compiled

    if is_compiled(model):
        return ["the model is compiled"]
    parameter = next(model.parameters(), None)
    heads, hidden = (getattr(model.config, name, None) for name in ("num_attention_heads", "hidden_size"))
    if parameter is None or not isinstance(heads, int) or not isinstance(hidden, int):
        return ["the model does not tell its sizes"]
    device = parameter.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else parameter.dtype
    shape = (1, seqlen, heads, hidden // heads)
    try:
        problem = Problem("windowed_attention", device, dtype, (shape, shape, shape))
        missing = why_no_kernel(choose(problem), problem)
    except BackendError as error:
        return [str(error)]
    return [missing] if missing else cannot_be_replaced(model)


def whose_attention(model: nn.Module, attention: str, seqlen: int) -> str:
    """Whose attention a call with rows of `seqlen` tokens runs on, layer by layer where they differ."""
    own = reasons_against(model, attention, seqlen)
    if own:
        return f"the model's own: {own[0]}"
    from lckernels.hf.dry_run import padded_run

    run = padded_run(model)
    if not run.calls:
        return f"lckernels, if the model brings no mask but padding, which is not known ({run.error})"
    if not run.dense:
        return "lckernels"
    served = f"lckernels in {run.served} of {len(run.calls)} layers"
    return f"{served}; torch's dense attention in the others: {', '.join(run.dense)}"


def on_lckernels(model: nn.Module, piece_tokens: int | None = None) -> AbstractContextManager[None]:
    """While it lasts, the model's attention is lckernels'; feed-forward runs in pieces of so many tokens."""
    from lckernels.hf.changes import attention_of

    return attention_of(model, piece_tokens)


def cannot_be_replaced(model: nn.Module) -> list[str]:
    """Why lckernels' attention cannot take the place of the model's in any layer; empty when it can."""
    why = _no_interface(model)
    if why:
        return why
    from lckernels.hf.dry_run import padded_run

    return padded_run(model).reasons()


def _no_interface(model: nn.Module) -> list[str]:
    if "transformers" not in sys.modules:
        return ["it is no model of transformers"]
    from lckernels.hf.changes import reasons

    return reasons(model)
