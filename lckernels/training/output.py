"""What a forward of a loss module returns, and the loss per label of Trainer's evaluation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.utils import ModelOutput

from lckernels.checks import bad
from lckernels.training.documents import IGNORED


@dataclass
class LossOutput(ModelOutput):
    """Loss of a batch of documents.

    Attributes:
        loss: scalar, the sum over the scored tokens, divided by their number or by `num_items_in_batch`.
        document_losses: (batch,) fp32 or fp64, the sum over each document's tokens, without gradient. None
            where torch's loss computes gradients, since it returns the sum alone.
        num_scored: (batch,) int64, the scored tokens of each document.
    """

    loss: Tensor | None = None
    document_losses: Tensor | None = None
    num_scored: Tensor | None = None

    def __getitem__(self, k: Any) -> Any:
        """As of ModelOutput. Raises KeyError for "logits", which Trainer's label smoothing reads."""
        if k == "logits":
            expected = "for label smoothing pass label_smoothing= to the module, not label_smoothing_factor="
            raise KeyError(f"logits: got a loss that is computed without all logits; {expected} to Trainer")
        return super().__getitem__(k)


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


def token_loss(prediction: Any, compute_result: bool | None = None) -> dict[str, float]:
    """Loss per token over all documents of an evaluation, for `Trainer(compute_metrics=token_loss)`.

    The loss that `Trainer.evaluate` computes is a mean of batch means: with documents of different length it
    depends on the batch size. This one replaces it as `eval_loss`.

    Args:
        prediction: transformers' EvalPrediction of a CausalChunks or a MaskedChunks, or of `document_losses`.
        compute_result: what Trainer passes with batch_eval_metrics=True, which is not supported.

    Returns:
        "loss": the sum over all scored tokens divided by their number, 0 if there are none; "scored_tokens".

    Raises:
        TypeError: the predictions are none of these.
        ValueError: compute_result is given: the predictions are those of one batch.
    """
    if compute_result is not None:
        expected = "expected the predictions of all documents, which are two numbers each"
        raise bad("compute_result", compute_result, f"{expected}: batch_eval_metrics=False")
    predictions = prediction.predictions
    if not _are_document_losses(predictions):
        expected = (
            "expected those of CausalChunks or MaskedChunks, or preprocess_logits_for_metrics=document_losses"
        )
        raise TypeError(f"prediction: got predictions of type {type(predictions).__name__}; {expected}")
    losses, counts = predictions
    total = int(counts.sum())
    loss = float(losses.astype("float64").sum()) / total if total else 0.0
    return {"loss": loss, "scored_tokens": total}


def _are_document_losses(predictions: Any) -> bool:
    """Whether predictions are arrays of losses and of numbers of labels, one of each per document."""
    if not isinstance(predictions, tuple | list) or len(predictions) != 2:
        return False
    if not all(isinstance(x, np.ndarray) and x.ndim == 1 for x in predictions):
        return False
    losses, counts = predictions
    return len(losses) == len(counts) and losses.dtype.kind == "f" and counts.dtype.kind == "i"
