"""Cross entropy of a linear head, without the logits of all tokens at once."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lckernels.ops.registration import first_order

PIECE_BYTES = 64 * 2**20  # of fp32 logits at a time
_TORCH_DTYPES = (torch.float32, torch.float64)


def linear_cross_entropy(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """The sum of -log softmax(softcap(scale * (states @ weight.T + bias)))[label] over the tokens.

    fp32 and fp64 use `torch.nn.functional.linear_cross_entropy` in pieces, where torch has it (2.13). Its
    pieces support no label smoothing and no softcap, and return the loss in the dtype of the states. Those
    cases, bf16, fp16 and an older torch use pieces of this module: products in the dtype of the inputs, all
    else in fp32 (fp64 for fp64). Under autocast the inputs have its dtype, as in a linear layer. The second
    order (create_graph=True) raises, and so does a second backward where torch computes the loss.

    Args:
        states: (num_tokens, dim) floating point.
        weight: (vocab_size, dim), of the same dtype.
        bias: (vocab_size,) or None.
        labels: (num_tokens,) int64, each an id of the vocabulary.
        scale: factor of the logits.
        softcap: if given, logits are softcap * tanh(logits / softcap).
        label_smoothing: part of the target that is uniform over the vocabulary.

    Returns:
        The sum, a scalar in fp32 (fp64 for fp64), and the loss of each token (num_tokens,) in that dtype,
        without gradient; None where it would be computed again.
    """
    states, weight, bias = _autocast(states, weight, bias)
    if scale != 1.0:
        states, bias = states * scale, bias if bias is None else bias * scale
    grads = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (states, weight, bias))
    if len(labels) == 0:
        return _empty(F.linear(states, weight, bias))
    if has_torch_loss() and states.dtype in _TORCH_DTYPES and softcap is None and label_smoothing == 0:
        options = nn.LinearCrossEntropyOptions(batch_chunk_size=rows_of_piece(len(weight)))
        reduction = "sum" if grads else "none"  # a loss per token computes the logits twice
        loss = F.linear_cross_entropy(
            states, weight, labels, linear_bias=bias, reduction=reduction, options=options
        )
        return (_FirstOrder.apply(loss), None) if grads else (loss.sum(), loss)
    return _Pieces.apply(states, weight, bias, labels, softcap, label_smoothing, grads)


def head_cross_entropy(
    states: Tensor,
    head: Callable[[Tensor], Tensor],
    labels: Tensor,
    rows: int,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`linear_cross_entropy` for any head; the backward computes the logits of each piece again.

    Args:
        states: (num_tokens, dim).
        head: states (tokens, dim) -> logits (tokens, vocab_size).
        labels: (num_tokens,) int64.
        rows: tokens of a piece.
        label_smoothing: as there.
    """
    if len(labels) == 0:
        return _empty(head(states))

    def of_piece(states: Tensor, labels: Tensor) -> Tensor:
        logits = head(states)
        logits = logits.to(_loss_dtype(logits.dtype))
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)

    pieces = zip(states.split(rows), labels.split(rows), strict=True)
    losses = torch.cat([checkpoint(of_piece, *piece, use_reentrant=False) for piece in pieces])
    return losses.sum(), losses.detach()


def rows_of_piece(vocab_size: int) -> int:
    """The number of tokens whose fp32 logits have PIECE_BYTES bytes."""
    return max(1, PIECE_BYTES // (4 * vocab_size))


def has_torch_loss() -> bool:
    """Whether torch has `linear_cross_entropy` in pieces (2.13 and later)."""
    return hasattr(F, "linear_cross_entropy") and hasattr(nn, "LinearCrossEntropyOptions")


class _FirstOrder(torch.autograd.Function):
    """torch's loss; the backward raises where autograd records it (create_graph=True).

    Without it the gradients, which torch's forward computed (2.13), are constants of the second order.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    @first_order("training.loss.linear_cross_entropy")
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class _Pieces(torch.autograd.Function):
    """The loss and its gradients, piece by piece; the backward multiplies the gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        softcap: float | None,
        label_smoothing: float,
        grads: bool,
    ) -> tuple[Tensor, Tensor]:
        inputs = (states, weight, bias)
        dtype = _loss_dtype(states.dtype)
        losses = torch.empty(len(labels), dtype=dtype, device=states.device)
        wanted = [grads and need for need in ctx.needs_input_grad[:3]]
        found = [
            torch.zeros_like(x, dtype=dtype) if want else None for x, want in zip(inputs, wanted, strict=True)
        ]
        rows = rows_of_piece(len(weight))
        for start in range(0, len(labels), rows):
            piece = slice(start, start + rows)
            logits = F.linear(states[piece], weight, bias).to(dtype)
            if softcap is not None:
                logits = logits.div_(softcap).tanh_()
                slope = 1 - logits.square() if any(wanted) else None
                logits = logits.mul_(softcap)
            target = labels[piece, None]
            lse = logits.logsumexp(1)
            right = logits.gather(1, target).squeeze(1)
            losses[piece] = lse - (1 - label_smoothing) * right
            if label_smoothing:
                losses[piece] -= label_smoothing * logits.mean(1)
            if not any(wanted):
                continue
            grad = logits.sub_(lse[:, None]).exp_()  # of the logits
            if label_smoothing:
                grad -= label_smoothing / len(weight)
            grad.scatter_(1, target, grad.gather(1, target) - (1 - label_smoothing))
            if softcap is not None:
                grad *= slope
            if found[2] is not None:
                found[2] += grad.sum(0)
            grad = grad.to(weight.dtype)
            if found[0] is not None:
                found[0][piece] = grad @ weight
            if found[1] is not None:
                _add_product(found[1], grad, states[piece])
        ctx.save_for_backward(
            *[x if x is None else x.to(y.dtype) for x, y in zip(found, inputs, strict=True)]
        )
        total = losses.sum()
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    @first_order("training.loss.linear_cross_entropy")
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found = (None if x is None else x * grad.to(x.dtype) for x in ctx.saved_tensors)
        return *found, None, None, None, None


def _add_product(total: Tensor, grad: Tensor, states: Tensor) -> None:
    """Adds grad.T @ states (vocab_size, dim)."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.t(), states)
    else:
        total += grad.t() @ states


def _empty(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of no tokens, 0 with zero gradients; logits: (0, vocab_size)."""
    losses = logits.to(_loss_dtype(logits.dtype)).sum(1)
    return losses.sum(), losses.detach()


def _loss_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _autocast(states: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The inputs in the dtype that autocast gives those of a linear layer."""
    device = states.device.type
    active = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not active or torch.float64 in (states.dtype, weight.dtype):
        return states, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return states.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
