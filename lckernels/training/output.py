"""What a forward of a loss module returns, and the metric of Trainer's evaluation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers.utils import ModelOutput

from lckernels.checks import bad


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
