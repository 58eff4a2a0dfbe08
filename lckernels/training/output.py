"""What a forward of a loss module returns, and a metric of it that depends on no batch size."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput


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


def token_loss(prediction: Any) -> dict[str, float]:
    """Loss per token over all documents of an evaluation, for `Trainer(compute_metrics=token_loss)`.

    The loss that `Trainer.evaluate` computes is a mean of batch means: with documents of different length it
    depends on the batch size. This one replaces it as `eval_loss`.

    Args:
        prediction: transformers' EvalPrediction of a CausalChunks or a MaskedChunks.

    Returns:
        "loss": the sum over all scored tokens divided by their number, 0 if there are none; "scored_tokens".

    Raises:
        TypeError: the predictions are not those of such a module.
    """
    predictions = prediction.predictions
    if not isinstance(predictions, tuple | list) or len(predictions) != 2:
        expected = "expected the outputs document_losses and num_scored of CausalChunks or MaskedChunks"
        raise TypeError(f"prediction: got predictions of type {type(predictions).__name__}; {expected}")
    losses, counts = predictions
    total = int(counts.sum())
    loss = float(losses.astype("float64").sum()) / total if total else 0.0
    return {"loss": loss, "scored_tokens": total}
