"""The module around a language model whose forward returns the loss of documents, read in chunks."""

from abc import abstractmethod
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad, boolean, integer, number
from lckernels.devices import execution_device
from lckernels.long.chunking import micro_batches
from lckernels.long.recompute import Recompute
from lckernels.training.documents import Documents, divisor, read_documents
from lckernels.training.head import Tail, head_loss, model_inputs, states_before_head, try_head, vocab_size
from lckernels.training.output import LossOutput
from lckernels.training.scored import Scored
from lckernels.training.tied_weights import TiedWeights


class ChunkLoss(nn.Module):
    """A language model whose forward returns the loss of documents of any length.

    Attributes:
        model: the language model; its state_dict and save_pretrained are unchanged.
        max_tokens: bound on the tokens of a micro-batch.
        recompute: whether the backward runs each micro-batch again.
        label_smoothing: part of the target that is uniform over the vocabulary.
        accepts_loss_kwargs: True, from which Trainer passes num_items_in_batch.
    """

    accepts_loss_kwargs = True
    causal: bool

    def __init__(self, model: nn.Module, max_tokens: int, recompute: bool, label_smoothing: float) -> None:
        super().__init__()
        self.max_tokens = integer("max_tokens", max_tokens, 1)
        self.recompute = boolean("recompute", recompute)
        number("label_smoothing", label_smoothing, 0)
        if label_smoothing >= 1:
            raise bad("label_smoothing", label_smoothing, "expected 0 <= label_smoothing < 1")
        self.label_smoothing = float(label_smoothing)
        self.model = model
        self.training = model.training
        self._tail: Tail | None = None
        if all(type(x) in (Tensor, nn.Parameter) and not x.is_meta for x in model.parameters()):
            self._tail = try_head(model, self.device, self.causal)
        TiedWeights.install(self)

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs."""
        weight = self.model.get_input_embeddings().weight
        return execution_device(self.model, weight)

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Calls the model's method, as Trainer does from transformers 5.24 on.

        With `recompute` it is of no use: each layer would run a third time.
        """
        self.model.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Calls the model's method, as Trainer does before transformers 5.24."""
        self.model.gradient_checkpointing_enable(**options)

    @abstractmethod
    def _scored(self, documents: Documents) -> Scored:
        """The chunks of the documents and what they score."""

    def _loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        labels: Tensor,
        num_items_in_batch: Tensor | float | None,
        return_dict: bool,
        num_special: int,
        kwargs: dict[str, Any],
    ) -> Any:
        """What a forward returns; arguments as there."""
        device = self.device
        if self._tail is None:  # the weights had no values before
            self._tail = try_head(self.model, device, self.causal)
        pad = getattr(self.config, "pad_token_id", None) or 0
        pad = pad if isinstance(pad, int) else 0
        size = vocab_size(self.model)
        documents = read_documents(input_ids, attention_mask, labels, kwargs, device, pad, size, num_special)
        scored = self._scored(documents)
        items = divisor(num_items_in_batch, len(scored.labels))
        options = {name: x for name, x in kwargs.items() if name not in documents.sources}
        states = self._states(documents, scored, options)
        targets = documents.labels[scored.labels.to(device)].to(states.device)
        total, losses = head_loss(self.model, self._tail, states, targets, self.label_smoothing)
        loss = total / items
        rows = (scored.labels // max(documents.shape[1], 1)).to(total.device)
        counts = torch.zeros(documents.shape[0], dtype=torch.int64, device=total.device)
        counts.index_add_(0, rows, torch.ones_like(rows))
        sums = None if losses is None else losses.new_zeros(documents.shape[0]).index_add_(0, rows, losses)
        output = LossOutput(loss=loss, document_losses=sums, num_scored=counts)
        return output if return_dict else output.to_tuple()

    def _states(self, documents: Documents, scored: Scored, options: dict[str, Any]) -> Tensor:
        """(num_scored, dim): the states that the head reads, in the order of `scored`."""
        if not scored.widths:
            return self._no_states(documents, options)
        run = partial(self._states_of, documents, options)
        if self.recompute and torch.is_grad_enabled():
            run = Recompute(self.model, self.device, nullcontext).of(run)
        found = []
        for start, stop in micro_batches(scored.widths, self.max_tokens):
            index, columns = scored.of_rows(start, stop)
            found.append(run(index, scored.widths[start:stop], columns))
        return torch.cat(found)

    def _no_states(self, documents: Documents, options: dict[str, Any]) -> Tensor:
        """(0, dim), of a run on one token: every parameter of a usual run gets a gradient of zeros."""
        index = torch.tensor([[documents.num_entries]], device="cpu")
        return self._states_of(documents, options, index, [1], index.flatten()[:0])

    def _states_of(
        self, documents: Documents, options: dict[str, Any], index: Tensor, widths: list[int], columns: Tensor
    ) -> Tensor:
        """States (num_columns, dim) of a micro-batch, at these entries of its flattened chunks.

        The model's inputs are made here: it may overwrite them, and with `recompute` it runs twice.
        """
        inputs, mask = documents.inputs(index, widths)
        given = {**options, **inputs, **model_inputs(inputs["input_ids"], mask, self.causal)}
        states = states_before_head(self.model, given)
        return states.flatten(0, 1).index_select(0, columns.to(states.device))
