"""The loss of a masked language model on documents of any length."""

from typing import Any

from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.long.sizes import resolve_chunking
from lckernels.training.chunk_loss import ChunkLoss
from lckernels.training.documents import Documents
from lckernels.training.head import head_of
from lckernels.training.scored import Scored, masked_chunks


class MaskedChunks(ChunkLoss):
    """A masked language model whose forward returns the loss of documents of any length.

    A document is read in overlapping chunks, as `lckernels.plan_chunks` with rule="max_context" cuts them:
    each labelled token is scored once, by the chunk with the most context on the token's shorter side, the
    earlier chunk in a tie. Each chunk has the document's special tokens at its ends. Chunks that score no
    token are not read.

    Logits exist for some tokens at a time only, see `lckernels.training.loss.linear_cross_entropy`.
    Between forward and backward the states of the scored tokens are kept, and the activations: of all chunks,
    or with `recompute` of one micro-batch at a time.

    Args:
        model: a masked language model of transformers with its head, or one in PEFT.
        chunk_len: tokens of a chunk, special tokens included. Default: all positions of the model.
        overlap: tokens that neighbouring chunks share. Default: a quarter of a chunk's content.
        special_tokens: how many special tokens begin and end each document.
        max_tokens: bound on the tokens of a micro-batch. A longer chunk is a micro-batch of its own.
        recompute: the backward runs each micro-batch again (`torch.utils.checkpoint`, not reentrant).
        label_smoothing: part of the target that is uniform over the vocabulary. Trainer's own
            label_smoothing_factor requires logits and is not supported.

    Raises:
        TypeError: a model without a language model head, or a causal one; logits that are not those of a
            linear layer, up to a factor and a softcap; a size that is no integer.
        ValueError: sizes that do not fit each other or the model's positions.
    """

    causal = False
    loss_type = "ForMaskedLM"

    def __init__(
        self,
        model: nn.Module,
        chunk_len: int | None = None,
        overlap: int | None = None,
        *,
        special_tokens: tuple[int, int] = (1, 1),
        max_tokens: int = 4096,
        recompute: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        head_of(model)
        chunking = resolve_chunking(model, chunk_len, overlap, "max_context", special_tokens, 0)
        super().__init__(model, max_tokens, recompute, label_smoothing)
        self.chunking = chunking

    @property
    def chunk_len(self) -> int:
        """Tokens of a chunk, special tokens included."""
        return self.chunking.chunk_len

    @property
    def overlap(self) -> int:
        """Tokens that neighbouring chunks share."""
        return self.chunking.overlap

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
            input_ids: (batch, seqlen) integers, special tokens included.
            attention_mask: (batch, seqlen), 1 for tokens, 0 for padding, which is at the ends of a row only;
                a row of padding is an empty document.
            labels: (batch, seqlen), the ids of the masked tokens, -100 elsewhere.
            num_items_in_batch: divisor of the loss, as Trainer passes it: the scored tokens of all batches of
                a step, on all processes. Default: the scored tokens of this batch.
            return_dict: False returns a tuple.
            kwargs: arguments of the model; tensors (batch, seqlen, ...) are cut into chunks as input_ids.

        Returns:
            `LossOutput`. Without a scored token the loss is 0, with zero gradients.

        Raises:
            TypeError: an argument is no tensor, num_items_in_batch no number.
            ValueError: no labels, shapes that do not fit, a document without its special tokens, a label on
                padding, an argument that chunks do not support, num_items_in_batch that is negative, not
                finite, or 0 where a token is scored.
        """
        if labels is None:
            raise bad("labels", "None", "expected the ids of the masked tokens, -100 elsewhere")
        special = self.chunking.num_special
        return self._loss(input_ids, attention_mask, labels, num_items_in_batch, return_dict, special, kwargs)

    def _scored(self, documents: Documents) -> Scored:
        return masked_chunks(documents, self.chunking)

    def extra_repr(self) -> str:
        return f"chunk_len={self.chunk_len}, overlap={self.overlap}, recompute={self.recompute}"
