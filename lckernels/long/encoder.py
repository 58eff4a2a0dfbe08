"""LongEncoder: an encoder with a position limit reads texts of any length, chunk by chunk."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import WEIGHTS, bad
from lckernels.extras import import_extra
from lckernels.long.attention import check_attention, on_lckernels, reasons_against
from lckernels.long.batches import Batch, read_batch
from lckernels.long.chunking import Chunks, cut_documents, micro_batches
from lckernels.long.explain import Explanation, explain
from lckernels.long.integers import content_boundaries, integers, text_lengths
from lckernels.long.layerwise import Rows, check_layerwise, read_row
from lckernels.long.limits import check_encoder, first_position, fit_cutting
from lckernels.long.merging import ChunkStates
from lckernels.long.outputs import Outputs
from lckernels.plan import Plan
from lckernels.progress import token_bar

RULES = ("sled", "max_context", "sentence")
MERGES = ("final", "layer")
Weights = str | Tensor | Callable[[Plan], Tensor]


class LongEncoder(nn.Module):
    """Wraps an encoder of transformers and is called like it; the result is one sequence as long as the text.

    A text is cut into overlapping chunks that the model can read; the chunks' hidden states are merged by
    `overlap_merge`, or with merge="layer" what each attention layer gave them, by `chunked_attention`. A text
    that fits in one chunk gives the model's own result; a longer one approximates a model with more
    positions, since a token sees its chunk and not the whole text.

    Args:
        model: an encoder whose output has `last_hidden_state`, as AutoModel loads it (BERT, RoBERTa, XLM-R,
            ELECTRA, DistilBERT, MPNet, ...). It is kept as `encoder.model`, not copied.
        chunk_len: tokens of a chunk, special tokens and prefix included. Default: all the model's positions.
        overlap: tokens that neighbouring chunks share. Default: a quarter of the chunk's content.
        weights: as in `overlap_merge`: "triangular" (default), "uniform", "hann", "crop", a tensor
            (num_chunks, chunk_len) with rows as in `encoder.plan(...)`, or a function plan -> such a tensor.
        boundaries: where chunks are cut and, with weights "crop", which tokens each keeps: the rule of
            `plan_chunks`, "sled" (default), "max_context" or "sentence". With "sentence" each call needs
            sentence_boundaries.
        special_tokens: how many special tokens begin and end each row of input_ids: (1, 1), [CLS] and [SEP].
            They are given to every chunk; their own states come from the first and the last.
        prefix: token ids that every chunk reads after its leading special tokens; their states are dropped.
        merge: "final" (default) runs the model on every chunk and merges its results. "layer" runs it once on
            the whole text and merges after each layer's attention: all else of the model runs once a token.
            That approximates "final": a token has one position, that in the chunk which weighs it most (the
            earlier one in a tie). It takes a model with absolute positions (BERT, RoBERTa, XLM-R, ELECTRA,
            DistilBERT, ...).
        attention: whose attention the model runs on. "auto" (default) takes lckernels' instead of torch's
            where a backend has a kernel for it; "lckernels" takes it always, whatever backend that is;
            "model" keeps the model's own. Results are the same up to rounding; a call leaves no trace.
        max_tokens: bound on the tokens of a micro-batch; one chunk is read alone if it is longer, and with
            merge="layer" one text, whose feed-forward runs in pieces of so many.
        output_device: where chunks are merged and results returned. Default: the model's device.
        progress: show a progress bar (tqdm) over the tokens read.

    Raises TypeError for a model that is no encoder or not one for `merge` and `attention`, ValueError for
    sizes that do not fit it.
    """

    def __init__(
        self,
        model: nn.Module,
        chunk_len: int | None = None,
        overlap: int | None = None,
        weights: Weights = "triangular",
        boundaries: str = "sled",
        *,
        special_tokens: tuple[int, int] = (1, 1),
        prefix: Sequence[int] | Tensor | None = None,
        merge: str = "final",
        attention: str = "auto",
        max_tokens: int = 4096,
        output_device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(model, LongEncoder):
            raise TypeError("model: got a LongEncoder; pass the encoder in it, its attribute model")
        check_encoder(model)
        if boundaries not in RULES:
            raise bad("boundaries", repr(boundaries), f"allowed are {', '.join(RULES)}")
        if isinstance(weights, str) and weights not in WEIGHTS:
            allowed = f"allowed are {', '.join(WEIGHTS)}, a tensor, a function of the plan"
            raise bad("weights", repr(weights), allowed)
        if max_tokens < 1:
            raise bad("max_tokens", max_tokens, "expected at least 1")
        check_attention(model, attention)
        if merge not in MERGES:
            raise bad("merge", repr(merge), f"allowed are {', '.join(MERGES)}")
        if merge == "layer":
            check_layerwise(model)
            if attention == "model":
                raise bad("attention", repr(attention), "merge='layer' needs that of lckernels")
        self.model = model
        self.training = model.training
        self.weights = weights
        self.merge = merge
        self.attention = attention
        self.max_tokens = max_tokens
        self.output_device = output_device
        self.progress = progress
        prefix = integers("prefix", [] if prefix is None else prefix)
        parameter = next(model.parameters(), prefix)
        self.register_buffer("prefix", prefix.to(parameter.device), persistent=False)
        self.cutting = fit_cutting(model, chunk_len, overlap, boundaries, special_tokens, len(prefix))

    @classmethod
    def from_pretrained(
        cls, path: str, *, model_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> "LongEncoder":
        """AutoModel.from_pretrained(path, **model_kwargs), in eval mode, as LongEncoder(model, **options)."""
        transformers = import_extra("transformers", "hf")
        return cls(transformers.AutoModel.from_pretrained(path, **(model_kwargs or {})), **options)

    def save_pretrained(self, path: str, **kwargs: Any) -> None:
        """Saves the wrapped model; nothing of LongEncoder is stored."""
        self.model.save_pretrained(path, **kwargs)

    @property
    def config(self) -> Any:
        """The wrapped model's config."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        # A replica of DataParallel has buffers, but no parameters.
        return next(self.model.parameters(), self.prefix).device

    @property
    def dtype(self) -> torch.dtype:
        parameter = next(self.model.parameters(), None)
        return self.get_input_embeddings().weight.dtype if parameter is None else parameter.dtype

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def plan(
        self, lengths: int | Sequence[int], sentence_boundaries: Sequence[Sequence[int]] | None = None
    ) -> Plan:
        """The plan of a call with texts of so many tokens, special tokens included; longest rows first."""
        lengths = text_lengths("lengths", lengths, self.cutting.num_special)
        first = lengths.cumsum(0) - lengths
        offsets = content_boundaries(sentence_boundaries, self.cutting, torch.zeros_like(lengths), lengths)
        return cut_documents(first, lengths, int(lengths.sum()), self.cutting, offsets).plan

    def explain(self, seqlen: int | Sequence[int]) -> Explanation:
        """What a text (or a batch) of `seqlen` tokens costs, and how far its tokens see, before it runs."""
        return explain(self, seqlen)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        sentence_boundaries: Sequence[Sequence[int]] | None = None,
        **unsupported: Any,
    ) -> Any:
        """Hidden states of texts of any length.

        Args:
            input_ids: (batch, seqlen) integers; or
            inputs_embeds: (batch, seqlen, dim), rows of special tokens included.
            attention_mask: (batch, seqlen), 1 for tokens, 0 for padding, which is at the ends of a row only.
            token_type_ids: (batch, seqlen); the prefix has type 0.
            output_hidden_states: also merge the states of every layer. Default: the model's config.
            return_dict: False gives a tuple. Default: the model's config.
            sentence_boundaries: for boundaries="sentence": per row the columns of input_ids at which a
                sentence begins, as `lckernels.sentences.token_boundaries` gives them.

        Returns:
            The model's own output class: last_hidden_state (batch, seqlen, dim), rows of padding zero;
            hidden_states, a tuple of such, if asked for; pooler_output None.

        Raises:
            ValueError: bad input, naming argument and row. TypeError: a model without last_hidden_state.
        """
        for name, value in unsupported.items():
            if value is not None and value is not False:
                raise bad(name, type(value).__name__, "LongEncoder cannot take it")
        batch = read_batch(input_ids, inputs_embeds, attention_mask, token_type_ids, self.cutting.num_special)
        offsets = content_boundaries(sentence_boundaries, self.cutting, batch.first, batch.lengths)
        chunks = cut_documents(batch.flat_first, batch.lengths, batch.num_entries, self.cutting, offsets)
        if output_hidden_states is None:
            output_hidden_states = bool(getattr(self.config, "output_hidden_states", False))
        outputs = Outputs(self.model, output_hidden_states)
        read = self._read_rows if self.merge == "layer" else self._read_chunks
        merged = read(batch.on(self.device, self.prefix, self.model), chunks, outputs)
        output = outputs.build([batch.unpack(state) for state in merged])
        if return_dict is None:
            return_dict = getattr(self.config, "return_dict", True)
        return output if return_dict else output.to_tuple()

    def _read_chunks(self, batch: Batch, chunks: Chunks, outputs: Outputs) -> list[Tensor]:
        """merge="final": each chunk through the model, then each state merged, (total_len, dim)."""
        target = self.output_device or self.device
        gathered: list[ChunkStates] = []
        own = reasons_against(self.model, self.attention, chunks.widths[0])
        attention = nullcontext() if own else on_lckernels(self.model)
        with attention, self._progress(chunks.num_tokens) as advance:
            for start, stop in micro_batches(chunks.widths, self.max_tokens):
                index = chunks.index[start:stop, : chunks.widths[start]].to(self.device)
                widths = chunks.widths[start:stop]
                states = outputs.states(
                    self.model(
                        **batch.gather(index, widths),
                        output_hidden_states=outputs.hidden_states,
                        return_dict=True,
                    )
                )
                gathered = gathered or [ChunkStates(chunks.plan, state, target) for state in states]
                for rows, state in zip(gathered, states, strict=True):
                    rows.add(state)
                advance(sum(widths))
        weights = self._weights(chunks.plan)
        # Without overlap every weight is the same, and uniform ones divide by exactly 1.
        if isinstance(weights, str) and chunks.plan.num_chunks == chunks.plan.cu_seqlens.shape[0] - 1:
            weights = "uniform"
        return [rows.merge(weights) for rows in gathered]

    def _read_rows(self, batch: Batch, chunks: Chunks, outputs: Outputs) -> list[Tensor]:
        """merge="layer": each document once through the model, (total_len, dim)."""
        target, weights = self.output_device or self.device, self._weights(chunks.plan)
        rows = Rows(chunks, self.cutting, self.max_tokens)
        layers = getattr(self.config, "num_hidden_layers", 1)
        parts: list[list[Tensor]] = []
        attention = on_lckernels(self.model, self.max_tokens)
        with attention, self._progress(sum(rows.num_tokens())) as advance:
            for start, stop in rows.documents:
                row = rows.make(start, stop, weights)
                done = [row.num_tokens * n // layers for n in range(layers + 1)]
                shares = (after - before for before, after in pairwise(done))
                output = read_row(
                    self.model,
                    batch,
                    row,
                    first_position(self.model),
                    lambda shares=shares: advance(next(shares, 0)),
                    output_hidden_states=outputs.hidden_states,
                    return_dict=True,
                )
                results = row.results.to(self.device)
                parts.append(
                    [state[0].index_select(0, results).to(target) for state in outputs.states(output)]
                )
        return [torch.cat(states) if len(states) > 1 else states[0] for states in zip(*parts, strict=True)]

    def _weights(self, plan: Plan) -> str | Tensor:
        return self.weights(plan) if callable(self.weights) else self.weights

    def _progress(self, num_tokens: int) -> AbstractContextManager[Callable[[int], object]]:
        return token_bar(num_tokens, "LongEncoder", self.progress)

    def extra_repr(self) -> str:
        cutting = self.cutting
        return (
            f"chunk_len={cutting.chunk_len}, overlap={cutting.overlap}, weights={self.weights!r}, "
            f"boundaries={cutting.rule!r}, merge={self.merge!r}"
        )
