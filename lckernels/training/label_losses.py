"""The loss per label of any model with logits and labels, such as a lengthened one."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lckernels.checks import bad
from lckernels.training.documents import IGNORED, divisor


def label_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Tensor | float | None = None, shift: bool = False
) -> Tensor:
    """Cross entropy per label, for `Trainer(compute_loss_func=label_loss)`.

    With it gradient accumulation and several processes give the loss and gradients of one large batch. Most
    heads of transformers return the mean over a batch whatever num_items_in_batch is, and Trainer then does
    not divide by the number of accumulated batches (transformers 5.24).

    Args:
        outputs: of a model called without labels: its output class, a dict with "logits", or a tuple that
            begins with these; (batch, num_labels) or (batch, seqlen, num_labels).
        labels: int64, (batch,) or (batch, seqlen), -100 where none is scored.
        num_items_in_batch: divisor of the loss, as Trainer passes it: the labels of all batches of a step, on
            all processes. Default: the labels of this batch.
        shift: as of `document_losses`.

    Returns:
        Scalar in fp32 (fp64 for fp64). Without a label it is 0, with zero gradients.

    Raises:
        TypeError: as of `document_losses`; num_items_in_batch that is no number.
        ValueError: as of `document_losses`; num_items_in_batch that is negative, not finite, or 0 where a
            label is scored.
    """
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs
    losses, counts = document_losses(logits, labels, shift)
    return losses.sum() / divisor(num_items_in_batch, int(counts.sum()))


def document_losses(
    logits: Tensor | tuple[Tensor, ...], labels: Tensor | tuple[Tensor, ...] | None, shift: bool = False
) -> tuple[Tensor, Tensor]:
    """Cross entropy of each document, for `Trainer(preprocess_logits_for_metrics=document_losses)`.

    For any model with logits and labels, such as a lengthened one; with `compute_metrics=token_loss`,
    `eval_loss` is then the loss per label over all documents. Trainer keeps two numbers per document instead
    of its logits and states, so `predict` returns these too.

    Args:
        logits: of a batch: (batch, num_labels), (batch, seqlen, num_labels), or a tuple that begins with
            these. Of question answering: a tuple of start and end logits, (batch, seqlen) each.
        labels: int64: (batch,), or (batch, seqlen) where -100 is not scored. Of question answering: a tuple
            of start and end positions, (batch,) each; a position past the end is not scored,
            a negative one is the first token, as in the heads of transformers. Last columns in which all
            logits are -100 are no tokens: with several processes Trainer adds them.
        shift: whether the label of a token is scored by the token before, as in decoders. For Trainer:
            `functools.partial(document_losses, shift=True)`.

    Returns:
        (batch,) fp32 (fp64 for fp64), the sum over the labels of each document; (batch,) int64, their number.

    Raises:
        TypeError: labels that are no classes, as of a regression; logits of another kind or shape; shift of
            labels without tokens.
        ValueError: a label that is no class and not -100.
    """
    if shift and (isinstance(labels, tuple | list) or (isinstance(labels, Tensor) and labels.dim() != 2)):
        got = type(labels).__name__ if isinstance(labels, tuple | list) else f"shape {tuple(labels.shape)}"
        raise TypeError(f"labels: got {got} with shift=True; expected (batch, seqlen)")
    if isinstance(labels, tuple | list):
        return _position_losses(logits, labels)
    found = _classes(logits, labels)
    if shift:
        found, labels = found[:, :-1], labels[:, 1:]
    found = found.double() if found.dtype == torch.float64 else found.float()
    losses = cross_entropy(found.flatten(0, -2), labels.flatten(), reduction="none")
    shape = (len(labels), labels.shape[1:].numel())
    return losses.view(shape).sum(1), (labels != IGNORED).view(shape).sum(1)


def _classes(logits: Any, labels: Any) -> Tensor:
    """The logits of the classes of labels; raises as `document_losses`."""
    found = logits[0] if isinstance(logits, tuple | list) and logits else logits
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or not labels.dim():
        got = type(labels).__name__
        if isinstance(labels, Tensor):
            got = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise TypeError(f"labels: got {got}; expected int64 classes, (batch,) or (batch, seqlen)")
    if not isinstance(found, Tensor) or not found.is_floating_point():
        got = getattr(found, "dtype", type(found).__name__)
        expected = "expected a floating point tensor with the classes as the last dim"
        raise TypeError(f"logits: got {got}; {expected}")
    if not found.dim() or found.shape[:-1] != labels.shape:
        got = f"shape {tuple(found.shape)}"
        raise TypeError(
            f"logits: got {got}; expected the classes of labels {tuple(labels.shape)} as the last dim"
        )
    # On a GPU torch's own check ends the process's work there, so the values are read here.
    unknown = labels[(labels != IGNORED) & ((labels < 0) | (labels >= found.shape[-1]))]
    if len(unknown):
        allowed = f"expected classes from 0 to {found.shape[-1] - 1}, or {IGNORED}"
        raise bad("labels", int(unknown[0]), allowed)
    return found


def _position_losses(logits: Any, positions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """`document_losses` of question answering."""
    if not isinstance(logits, tuple | list) or len(logits) < len(positions):
        got = type(logits).__name__
        raise TypeError(f"logits: got {got}; expected a tuple with the logits of start and end positions")
    if len(positions) != 2 or any(not isinstance(x, Tensor) or x.dim() != 1 for x in positions):
        got = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in positions]
        raise TypeError(f"labels: got a tuple of {got}; expected start and end positions, (batch,) each")
    start, end = logits[:2]
    if any(not isinstance(x, Tensor) or x.dim() != 2 for x in (start, end)) or start.shape != end.shape:
        got = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (start, end)]
        expected = "expected start and end logits, (batch, seqlen) each"
        raise TypeError(f"logits: got a tuple of {got}; {expected}")
    used = ((start != IGNORED) | (end != IGNORED)).any(0).nonzero()
    seqlen = int(used[-1]) + 1 if len(used) else 0  # without columns of accelerate's pad_across_processes
    parts = []
    for scores, position in zip((start, end), positions, strict=True):
        past = position >= seqlen
        parts.append(document_losses(scores[:, :seqlen], position.clamp(min=0).masked_fill(past, IGNORED)))
    losses, counts = zip(*parts, strict=True)
    return torch.stack(losses).sum(0), torch.stack(counts).sum(0)
