"""Training on documents of any length: modules whose forward returns the loss, for any trainer.

The modules run the model's own forward, chunk by chunk, and replace what its head computes.

    causal.py, masked.py  the public modules
    chunk_loss.py         what they share: a forward, from documents to a loss
    documents.py          the arguments of a forward
    scored.py             the chunks of documents, and the tokens that each scores
    head.py               the head of a model, and what follows it
    loss.py               cross entropy without the logits of all tokens at once
    output.py             what a forward returns, and the metric of Trainer's evaluation
    label_losses.py       the loss per label of models with logits, such as lengthened ones
    curriculum.py         a callback of Trainer: shorter documents first
    tied_weights.py       the state_dict of a module with tied weights
"""

from lckernels.extras import import_extra

import_extra("transformers", "hf")

from lckernels.training.causal import CausalChunks  # noqa: E402
from lckernels.training.curriculum import LengthCurriculum  # noqa: E402
from lckernels.training.label_losses import document_losses, label_loss  # noqa: E402
from lckernels.training.masked import MaskedChunks  # noqa: E402
from lckernels.training.output import LossOutput, token_loss  # noqa: E402

__all__ = [
    "CausalChunks",
    "LengthCurriculum",
    "LossOutput",
    "MaskedChunks",
    "document_losses",
    "label_loss",
    "token_loss",
]
