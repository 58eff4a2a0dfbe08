"""The loss of a causal language model on documents of any length."""

from typing import Any

from torch import Tensor, nn

from lckernels.checks import bad, integer
from lckernels.prompts import num_virtual_tokens
from lckernels.training.chunk_loss import ChunkLoss
from lckernels.training.documents import IGNORED, Documents
from lckernels.training.head import head_of
from lckernels.training.scored import Scored, causal_chunks


class CausalChunks(ChunkLoss):
    """A causal language model whose forward returns the loss of documents of any length.

    A document is read in chunks of `context` tokens that begin every context - overlap tokens; the last chunk
    ends with the document. Each token is scored once, by the chunk that has the most tokens before it; the
    first `overlap` tokens of every chunk but the first are context only. Each chunk has the positions from 0
    on. Chunks that score no token are not read.

    The loss equals that of the whole document if each layer has a window, positions are relative, and
    `overlap` is at least the sum over the layers of the tokens before its own that a token sees. Losses
    beside cross entropy, as of a router of experts, are not included.

    Logits exist for some tokens at a time only, see `lckernels.training.loss.linear_cross_entropy`.
    Between forward and backward the states of the scored tokens are kept, and the activations: of all chunks,
    or with `recompute` of one micro-batch at a time.

    Args:
        model: a causal language model of transformers with its head, or one in PEFT.
        context: tokens of a chunk; a document of up to context + 1 tokens is one chunk.
        overlap: tokens that neighbouring chunks share, 0 <= overlap < context.
        max_tokens: bound on the tokens of a micro-batch. A longer chunk is a micro-batch of its own.
        recompute: the backward runs each micro-batch again (`torch.utils.checkpoint`, not reentrant).
        label_smoothing: part of the target that is uniform over the vocabulary. Trainer's own
            label_smoothing_factor requires logits and is not supported.

    Raises:
        TypeError: a model without a language model head, or that is not causal; logits that are not those of
            a linear layer, up to a factor and a softcap; a size that is no integer.
        ValueError: sizes that do not fit each other or the model's positions.
    """

    causal = True
    loss_type = "ForCausalLM"  # by this name Trainer does not count the first label of a row

    def __init__(
        self,
        model: nn.Module,
        context: int,
        overlap: int,
        *,
        max_tokens: int = 4096,
        recompute: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        head_of(model)
        context, overlap = integer("context", context, 1), integer("overlap", overlap, 0)
        if overlap >= context:
            raise bad("overlap", overlap, f"expected 0 <= overlap < context = {context}")
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        virtual = num_virtual_tokens(model)
        if isinstance(positions, int) and context + virtual > positions > 0:
            prompt = f" and {virtual} virtual tokens" if virtual else ""
            raise bad("context", context, f"{type(model).__name__} has {positions} positions{prompt}")
        super().__init__(model, max_tokens, recompute, label_smoothing)
        self.context, self.overlap = context, overlap

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | float | None = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        """The loss of a batch of documents.

        Args:
            input_ids: (batch, seqlen) integers.
            attention_mask: (batch, seqlen), 1 for tokens, 0 for padding, which is at the ends of a row only;
                a row of padding is an empty document.
            labels: (batch, seqlen), the ids to predict, -100 where none is; not shifted. The first token of a
                document is never scored. Default: all tokens.
            num_items_in_batch: divisor of the loss, as Trainer passes it: the scored tokens of all batches of
                a step, on all processes. Default: the scored tokens of this batch.
            return_dict: False returns a tuple.
            kwargs: arguments of the model; tensors (batch, seqlen, ...) are cut into chunks as input_ids.

        Returns:
            `LossOutput`. Without a scored token the loss is 0, with zero gradients.

        Raises:
            TypeError: an argument is no tensor, num_items_in_batch no number.
            ValueError: shapes that do not fit, a label on padding, an argument that chunks do not support,
                num_items_in_batch that is negative, not finite, or 0 where a token is scored.
        """
        if labels is None and isinstance(input_ids, Tensor):
            labels = input_ids
            if isinstance(attention_mask, Tensor) and attention_mask.shape == labels.shape:
                labels = labels.masked_fill(attention_mask.to(labels.device) == 0, IGNORED)
        return self._loss(input_ids, attention_mask, labels, num_items_in_batch, return_dict, 0, kwargs)

    def _scored(self, documents: Documents) -> Scored:
        return causal_chunks(documents, self.context, self.overlap)

    def extra_repr(self) -> str:
        return f"context={self.context}, overlap={self.overlap}, recompute={self.recompute}"
