"""The head of a language model: the states that it reads, and what follows its linear layer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.long.trial import eval_mode, undisturbed
from lckernels.prompts import num_virtual_tokens
from lckernels.training.loss import head_cross_entropy, linear_cross_entropy, rows_of_piece

_TOKENS = 4  # of a row of the trial
_SMALL, _LARGE = 2.0**-20, 2.0**20  # probes of a softcap: its slope, and its limit
_EXPECTED = "expected a linear head, with a factor or a softcap on its logits"
_ABSENT = object()


@dataclass(frozen=True)
class Tail:
    """What a model does to the logits of its head: softcap * tanh(scale * logits / softcap).

    Attributes:
        scale: factor of the logits.
        softcap: limit of the logits, or None.
    """

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def head_of(model: nn.Module) -> nn.Module:
    """The model's last layer, states -> logits. Raises TypeError for a model without one."""
    found = getattr(model, "get_output_embeddings", None)
    head = found() if callable(found) else None
    if not isinstance(head, nn.Module):
        expected = "expected a language model of transformers with its head, or one in PEFT"
        raise TypeError(f"model: got {type(model).__name__}, which has no language model head; {expected}")
    return head


def states_before_head(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """What the model's own forward passes to its head, (rows, width, dim); no logits are computed.

    Args:
        model: a language model.
        inputs: arguments of its forward, input_ids (rows, width) among them.

    Raises:
        TypeError: the forward does not call the head, or not with one state per token.
    """
    found: list[Tensor] = []

    def store(states: Tensor) -> Tensor:
        found.append(states)
        return states[..., :0]  # logits of no vocabulary

    with _forward_replaced(head_of(model), store):
        try:
            model(**inputs)
        except Exception as error:
            if not found:
                raise
            got = f"model: got {type(model).__name__}, whose forward does more with the logits of its head"
            raise TypeError(f"{got} ({error}); {_EXPECTED}") from error
    rows, width = inputs["input_ids"].shape
    shape = tuple(found[0].shape[:-1]) if len(found) == 1 else None
    if shape != (rows, width + num_virtual_tokens_before(model, shape, width)):
        got = f"model: got {type(model).__name__}, whose head reads states {shape} for tokens {(rows, width)}"
        raise TypeError(f"{got}; expected one state per token")
    return found[0][:, shape[1] - width :]


def num_virtual_tokens_before(model: nn.Module, shape: tuple[int, ...] | None, width: int) -> int:
    """States before those of the tokens: the virtual tokens of PEFT's prompt tuning, or none."""
    virtual = num_virtual_tokens(model)
    return virtual if shape is not None and len(shape) == 2 and shape[1] == width + virtual else 0


def head_loss(
    model: nn.Module, tail: Tail, states: Tensor, labels: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor | None]:
    """The summed cross entropy of states (num_tokens, dim) that the model's head reads, as of `loss`."""
    head = head_of(model)
    if is_plain(head):
        options = {"scale": tail.scale, "softcap": tail.softcap, "label_smoothing": label_smoothing}
        return linear_cross_entropy(states, head.weight, head.bias, labels, **options)
    rows = rows_of_piece(vocab_size(model))
    return head_cross_entropy(states, lambda x: tail(head(x)), labels, rows, label_smoothing)


def is_plain(head: nn.Module) -> bool:
    """Whether the head is a linear layer of plain weights, without hooks or a forward of its own."""
    own = {"forward", "_hf_hook"} & {*head.__dict__}
    hooks = head._forward_hooks or head._forward_pre_hooks
    linear = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
    weights = (x for x in (getattr(head, "weight", None), getattr(head, "bias", None)) if x is not None)
    return bool(linear and not own and not hooks and all(type(x) in (Tensor, nn.Parameter) for x in weights))


def try_head(model: nn.Module, device: torch.device, causal: bool) -> Tail:
    """What follows the head's linear layer, found by a trial run of the model on a few tokens, in eval mode.

    Args:
        model: a language model; weights and random state do not change.
        device: of its input.
        causal: whether its states are to depend on no later token.

    Raises:
        TypeError: the logits are not those of the head up to a factor and a softcap, or the model is causal
            where it must not be, or the other way round.
    """
    name = type(model).__name__
    ids = torch.arange(_TOKENS, device=device)[None]
    inputs = model_inputs(ids, torch.ones_like(ids), causal)
    with eval_mode(model), undisturbed(device):
        try:
            logits = model(**_copied(inputs)).logits
        except Exception as error:
            what = "causal" if causal else "masked"
            got = f"model: got {name}, whose forward does not run on token ids alone ({error})"
            raise TypeError(f"{got}; expected a {what} language model") from error
        _check_direction(model, inputs, logits, causal)
        states = states_before_head(model, _copied(inputs))
        tail = _tail(model, inputs, logits)
        ours = tail(head_of(model)(states)).to(logits)
    logits = logits[:, -_TOKENS:]
    rounding = max(1e-5, 64 * torch.finfo(logits.dtype).eps) * float(logits.abs().max())
    if ours.shape != logits.shape or not torch.allclose(ours, logits, rtol=0, atol=rounding):
        raise _unknown_head(model, "differ from those of its head")
    return tail


def model_inputs(input_ids: Tensor, attention_mask: Tensor | None, causal: bool) -> dict[str, Any]:
    """Arguments of a model's forward."""
    inputs: dict[str, Any] = {"input_ids": input_ids, "return_dict": True}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
    if causal:
        inputs["use_cache"] = False
    return inputs


def _copied(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs, for a model that may overwrite them."""
    return {name: x.clone() if isinstance(x, Tensor) else x for name, x in inputs.items()}


def _tail(model: nn.Module, inputs: dict[str, Any], logits: Tensor) -> Tail:
    """What the model's forward makes of logits that replace those of its head."""
    generator = torch.Generator().manual_seed(0)
    probes = 8 * torch.randn(logits.shape, generator=generator, dtype=torch.float64, device="cpu")
    probes.view(-1)[:2] = torch.tensor([_SMALL, _LARGE], dtype=torch.float64, device="cpu")
    probes = probes.to(logits.device)
    with _forward_replaced(head_of(model), lambda _: probes.clone()):
        found = model(**_copied(inputs)).logits.double()
    if found.shape != probes.shape:
        raise _unknown_head(model, "have another shape than those of its head")
    slope, limit = (float(x) for x in found.flatten()[:2])
    scale = slope / _SMALL
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    is_capped = abs(limit) < 0.5 * abs(scale) * _LARGE
    tail = Tail(scale, float(limit) if is_capped else None)
    if not torch.allclose(tail(probes), found, rtol=1e-4, atol=1e-4):
        raise _unknown_head(
            model, "are neither those of its head, nor these times a factor or with a softcap"
        )
    return tail


def _unknown_head(model: nn.Module, what: str) -> TypeError:
    return TypeError(f"model: got {type(model).__name__}, whose logits {what}; {_EXPECTED}")


def _check_direction(model: nn.Module, inputs: dict[str, Any], logits: Tensor, causal: bool) -> None:
    """Raises TypeError where the first state depends on later tokens and must not, or the other way round."""
    ids = inputs["input_ids"].clone()
    ids[0, 1:] = ids[0, 1:].flip(0)
    first, other = (
        logits[0, -_TOKENS].double(),
        model(**_copied({**inputs, "input_ids": ids})).logits[0, -_TOKENS].double(),
    )
    name = type(model).__name__
    # In a mixture of experts rounding may depend on the other tokens.
    rounding = min(64 * torch.finfo(logits.dtype).eps, 0.05) * float(first.abs().max())
    if causal and bool((first - other).abs().max() > rounding):
        raise TypeError(f"model: got {name}, whose states depend on later tokens; expected a causal model")
    if not causal and torch.equal(first, other):
        expected = "expected a masked language model; CausalChunks supports causal ones"
        raise TypeError(f"model: got {name}, whose states do not depend on later tokens; {expected}")


def vocab_size(model: nn.Module) -> int:
    """The number of logits of a token."""
    return getattr(head_of(model), "out_features", None) or model.config.get_text_config().vocab_size


@contextmanager
def _forward_replaced(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within it the head's forward is `forward`."""
    own = head.__dict__.get("forward", _ABSENT)
    head.forward = forward
    try:
        yield
    finally:
        if own is _ABSENT:
            del head.forward
        else:
            head.forward = own
