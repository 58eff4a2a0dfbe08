"""LongEncoder: an encoder with a limit of positions reads sequences of any length, chunk by chunk."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad, boolean, integer, integers
from lckernels.devices import check_device, execution_device
from lckernels.dtypes import compute_dtype
from lckernels.inner_forward import INNER
from lckernels.long import exactness
from lckernels.long.arguments import Weights, check_options, defaults
from lckernels.long.attention import AttentionContexts
from lckernels.long.batches import check_embeds, check_prefix, check_token_ids, read_batch
from lckernels.long.call_steps import CallSteps
from lckernels.long.chunking import Rows
from lckernels.long.encoder_check import check_encoder
from lckernels.long.explain import Explanation, explain
from lckernels.long.inputs import Numbers, as_tensors, check_unsupported
from lckernels.long.linear import LinearContexts
from lckernels.long.outputs import Outputs
from lckernels.long.ranks import Ranks
from lckernels.long.rotary import dynamic_rotary, length_borders
from lckernels.long.run import chunks_of, run_batch
from lckernels.long.sizes import resolve_chunking
from lckernels.long.special_ids import special_ids, warn_without_special_tokens
from lckernels.long.stream import Stream
from lckernels.plan import Plan


class LongEncoder(CallSteps):
    """Wraps an encoder of transformers and is called like it; returns one sequence as long as the input.

    A sequence is cut into overlapping chunks that fit the model; the chunks' hidden states are merged by
    `overlap_merge`, or with merge="layer" the results of each attention layer, by `chunked_attention`. A
    sequence that fits in one chunk has the model's own result; a longer one approximates a model with more
    positions, since a token attends to its chunk and not to the whole sequence. `explain` measures how well.

    Args:
        model: an encoder whose output has `last_hidden_state`, as AutoModel loads it (BERT, RoBERTa, XLM-R,
            ELECTRA, DistilBERT, MPNet, ...). Stored as `encoder.model`, not copied.
        chunk_len: tokens of a chunk, special tokens and prefix included. Default: all the model's positions.
        overlap: tokens that neighbouring chunks share. Default: a quarter of the chunk's content.
        weights: as in `overlap_merge`: "triangular", "uniform", "hann", "crop", a tensor (num_chunks,
            chunk_len) with rows as in `encoder.plan(...)`, or a function plan -> such a tensor. Default:
            "triangular"; "crop" with halo="exact".
        boundaries: where chunks are cut and, with weights "crop", which tokens each contributes: the rule of
            `plan_chunks`, "sled" (default), "max_context" or "sentence". With "sentence" each call requires
            sentence_boundaries.
        halo: None (default), or "exact" for a model whose every layer attends to a window and whose positions
            are relative: the result is that of the model for the whole row. The overlap is then twice the
            reach of all layers, and each state comes from a chunk that has all it depends on.
        special_tokens: how many special tokens begin and end each row of input_ids; every chunk gets them.
            Default: (1, 1), [CLS] and [SEP]; (0, 0) with halo="exact", where they are content.
        summary: states of the leading special tokens: "first" (default), those of the first chunk; "mean",
            their mean over the chunks, each weighted by the tokens that it keeps by the rule of `boundaries`.
            The states of the trailing ones come from the last chunk.
        prefix: token ids that every chunk reads after its leading special tokens; their states are dropped.
        merge: "final" (default) runs the model on every chunk and merges its results. "layer" runs it once on
            the whole sequence and merges after each layer's attention: all else of the model runs once per
            token. That approximates "final": a token has one position, that in the chunk which weighs it most
            (the earlier one in a tie). It supports models with absolute positions (BERT, RoBERTa, XLM-R,
            ELECTRA, DistilBERT, ...).
        attention: attention backend. "auto" (default) runs lckernels' attention instead of torch's in chunks
            of more than 128 tokens, where a backend has a kernel for it; "lckernels" always does, on any
            backend; "model" never does. Results are the same up to rounding; after a call the model is as
            before.
        linear: None (default), or "packed": in calls without gradients on a CPU, linear layers run on copies
            of their weights that oneDNN packed, where a measurement at the first call found that faster.
            Results are the same up to rounding; `linear_report` has the layers and the memory of the copies.
        max_tokens: bound on the tokens of a micro-batch. A longer chunk is a micro-batch of its own; with
            merge="layer" a longer sequence is, and its feed-forward runs in pieces of at most max_tokens.
        recompute: the backward runs each micro-batch again, so that a call with gradients stores the states
            of the chunks and the activations of one micro-batch. With merge="layer" a micro-batch is a row of
            whole sequences. Gradients are the same: a second run has the random state of the first.
        output_device: where chunks are merged and results returned. Default: the model's device.
        progress: show a progress bar (tqdm) over the tokens read.

    Raises:
        TypeError: a model that is no encoder of tokens, has a task head, returns more or fewer states than
            tokens, or does not support `merge` and `attention`; a size that is no integer; `recompute` or
            `progress` that is no bool.
        ValueError: sizes that do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        chunk_len: int | None = None,
        overlap: int | None = None,
        weights: Weights | None = None,
        boundaries: str = "sled",
        *,
        halo: str | None = None,
        special_tokens: tuple[int, int] | None = None,
        summary: str = "first",
        prefix: Sequence[int] | Tensor | None = None,
        merge: str = "final",
        attention: str = "auto",
        linear: str | None = None,
        max_tokens: int = 4096,
        recompute: bool = False,
        output_device: torch.device | str | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(model, LongEncoder):
            raise TypeError("model: got a LongEncoder; pass the encoder in it, its attribute model")
        if any(INNER in module.__dict__ for module in model.modules()):
            got = f"{type(model).__name__}, lengthened: it reads rows of any length"
            raise bad("model", got, "call lckernels.unlengthen(model) first")
        self.trial = check_encoder(model)
        max_tokens = integer("max_tokens", max_tokens, 1)
        weights, special_tokens = defaults(halo, weights, special_tokens)
        check_options(model, weights, boundaries, merge, attention, summary, linear)
        self.model = model
        self.training = model.training
        self.weights = weights
        self.summary = summary
        self.merge = merge
        self.recompute = boolean("recompute", recompute)
        self.attention = attention
        self._attention_contexts, self._linear_contexts = AttentionContexts(), LinearContexts()
        self.linear = linear
        self.ranks = Ranks(model)
        self._is_dynamic = bool(dynamic_rotary(model))
        self._borders = length_borders(model)
        self.max_tokens = max_tokens
        self.output_device = check_device("output_device", output_device)
        self.progress = boolean("progress", progress)
        prefix = integers("prefix", [] if prefix is None else prefix)
        check_prefix(prefix, model)
        device = execution_device(model, next(model.parameters(), prefix))
        self.register_buffer("prefix", prefix.to(device), persistent=False)
        exactness.check_options(
            halo, prefix, overlap=overlap, weights=weights, boundaries=boundaries, merge=merge
        )
        self.chunking = resolve_chunking(model, chunk_len, overlap, boundaries, special_tokens, len(prefix))
        self.halo = halo
        if halo is not None:
            self.chunking = exactness.exact_chunking(model, self.chunking)
            self._positions_tried = exactness.try_positions(model)
        self.special_ids = special_ids(model.config, *self.special_tokens)

    @property
    def rows(self) -> Rows | None:
        """Which chunks a micro-batch may hold, as a trial run of the model found.

        None where that is not known before the first call: the model's weights are on the meta device,
        offloaded, sharded, quantized, or without values.
        """
        return None if self.trial is None else self.trial.rows

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for an equal LongEncoder, without the model, output_device and progress.

        `LongEncoder.from_pretrained(path, **options)` restores a saved encoder. JSON can store them unless
        weights are a tensor or a function.
        """
        return {
            "chunk_len": self.chunk_len,
            "overlap": self.overlap if self.halo is None else None,
            "halo": self.halo,
            "weights": self.weights,
            "boundaries": self.boundaries,
            "special_tokens": self.special_tokens,
            "summary": self.summary,
            "prefix": self.prefix.tolist(),
            "merge": self.merge,
            "attention": self.attention,
            "linear": self.linear,
            "max_tokens": self.max_tokens,
            "recompute": self.recompute,
        }

    @property
    def chunk_len(self) -> int:
        """Tokens of a chunk, special tokens and prefix included."""
        return self.chunking.chunk_len

    @property
    def overlap(self) -> int:
        """Tokens that neighbouring chunks share."""
        return self.chunking.overlap

    @property
    def boundaries(self) -> str:
        """The rule that cuts: "sled", "max_context" or "sentence"."""
        return self.chunking.rule

    @property
    def special_tokens(self) -> tuple[int, int]:
        """How many special tokens begin and end each row."""
        return self.chunking.num_leading, self.chunking.num_trailing

    def plan(
        self, lengths: int | Sequence[int], sentence_boundaries: Sequence[Sequence[int]] | None = None
    ) -> Plan:
        """The plan of a call, longest chunks first.

        Args:
            lengths: tokens of the sequence, or of each sequence of the batch, special tokens included.
            sentence_boundaries: as in a call.
        """
        return chunks_of(self.chunking, lengths, sentence_boundaries).plan

    def num_chunks(
        self, lengths: int | Sequence[int], sentence_boundaries: Sequence[Sequence[int]] | None = None
    ) -> int:
        """How many chunks a call reads; arguments as in `plan`."""
        return chunks_of(self.chunking, lengths, sentence_boundaries).num_chunks

    def explain(
        self,
        seqlen: int | Sequence[int] | None = None,
        *,
        input_ids: Numbers | None = None,
        attention_mask: Numbers | None = None,
        measure: bool = False,
    ) -> Explanation:
        """Cost and accuracy of a call with sequences of `seqlen` tokens, or with these tokens.

        Without `measure` nothing is computed. With boundaries="sentence" the chunks depend on the text: the
        numbers are those of "sled" with the same sizes.

        `measure` runs the model on rows without chunks, and compares the states. Rows beyond the model's
        positions, or beyond half of the free memory by an estimate, are compared in pieces of that length, at
        most 8 and evenly spaced; if such a piece is less than two chunks, with chunks of half the length, or
        a quarter and so on.

        Args:
            seqlen: tokens of the sequence, or of each sequence of the batch, special tokens included; or
            input_ids: (batch, seqlen) integers, as in a call.
            attention_mask: (batch, seqlen), 1 for tokens, 0 for padding.
            measure: whether to measure the error on input_ids, in eval mode.

        Raises:
            ValueError: no sequence, or one shorter than its special tokens; neither or both of seqlen and
                input_ids; `measure` without input_ids.
        """
        return explain(self, seqlen, input_ids, attention_mask, measure)

    def stream(self, leading: Sequence[int] = (), trailing: Sequence[int] = ()) -> Stream:
        """The states of a sequence that grows, as of a transcript: `append` reads the changed chunks alone.

        Args:
            leading: ids of the special tokens that begin the sequence.
            trailing: ids of those that end it.

        Raises:
            ValueError: not as many ids as `special_tokens`; merge="layer", boundaries="sentence", or weights
                that have no name.
        """
        return Stream(self, leading, trailing)

    def embed(
        self, input_ids: Numbers | None = None, attention_mask: Numbers | None = None, **inputs: Any
    ) -> Tensor:
        """One vector per sequence: the mean of its tokens' last hidden states.

        Special tokens count, once per sequence; padding and the prefix do not. That is the mean pooling of
        sentence-transformers.

        Args:
            input_ids: (batch, seqlen) integers, as in a call.
            attention_mask: (batch, seqlen), 1 for tokens, 0 for padding.
            inputs: further arguments of a call.

        Returns:
            (batch, dim), float32; float64 for a float64 model. Not normalized.
        """
        given = as_tensors({"input_ids": input_ids, "attention_mask": attention_mask, **inputs})
        attention_mask = given["attention_mask"]
        states = self(**{**given, "return_dict": True}).last_hidden_state
        dtype = compute_dtype(states.dtype)
        total = states.sum(1, dtype=dtype)  # rows of padding are zero
        if attention_mask is None:
            return total / states.shape[1]
        return total / attention_mask.sum(1, keepdim=True).to(total)

    def forward(
        self,
        input_ids: Numbers | None = None,
        attention_mask: Numbers | None = None,
        *,
        inputs_embeds: Numbers | None = None,
        token_type_ids: Numbers | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        sentence_boundaries: Sequence[Sequence[int]] | None = None,
        num_leading: Sequence[int] | Tensor | None = None,
        num_trailing: Sequence[int] | Tensor | None = None,
        **unsupported: Any,
    ) -> Any:
        """Hidden states of sequences of any length.

        Each input is a tensor, an array or lists. Rows of lists may differ in length: they are padded on the
        right, and require no attention_mask.

        Args:
            input_ids: (batch, seqlen) integers; or
            inputs_embeds: (batch, seqlen, dim), rows of special tokens included.
            attention_mask: (batch, seqlen), 1 for tokens, 0 for padding, which is at the ends of a row only.
            token_type_ids: (batch, seqlen); the prefix has type 0.
            output_hidden_states: also merge the states of every layer. Default: the model's config.
            return_dict: False returns a tuple. Default: the model's config.
            sentence_boundaries: for boundaries="sentence": per row the columns of input_ids at which a
                sentence begins, as `lckernels.sentences.token_boundaries` returns them.
            num_leading: per row, how many of its first tokens every chunk reads, as a question before its
                context; special tokens included. Default: special_tokens[0]. `summary` merges their states.
            num_trailing: per row, how many of its last tokens every chunk reads, as a hypothesis after a
                document; their states are those of the last chunk. Default: special_tokens[1].

        Returns:
            The model's own output class: last_hidden_state (batch, seqlen, dim), rows of padding zero;
            hidden_states, a tuple of such, if requested; pooler_output None.

        Raises:
            ValueError: bad input, naming argument and row.
            TypeError: an input that is no numbers; or the model's output has no last_hidden_state, or not
                one state per token; or with recompute and gradients the model changes a buffer in a forward.

        Warns:
            UserWarning: a row has none of the special tokens whose ids the model's config has.
        """
        check_unsupported(self._kind, unsupported, self.model.config)
        given = as_tensors(
            {
                "input_ids": input_ids,
                "inputs_embeds": inputs_embeds,
                "attention_mask": attention_mask,
                "token_type_ids": token_type_ids,
            }
        )
        model = self.model
        batch = read_batch(**given, num_special=self.chunking.num_special)
        if output_hidden_states is None:
            output_hidden_states = bool(getattr(model.config, "output_hidden_states", False))
        outputs = Outputs(model, output_hidden_states)
        check_token_ids(batch, model)
        check_embeds(batch, model)
        warn_without_special_tokens(batch, self.special_ids, self.special_tokens)
        self.ranks.find()
        self._prepare()
        with self._linear_contexts.of(model, self.linear):
            states = run_batch(self, batch, outputs, sentence_boundaries, num_leading, num_trailing)
        output = outputs.build(states, self._pool)
        if return_dict is None:
            return_dict = getattr(model.config, "return_dict", True)
        return output if return_dict else self._as_tuple(output)

    def _replicate_for_data_parallel(self) -> "LongEncoder":
        replica = super()._replicate_for_data_parallel()
        # The choices of one are for its model.
        replica._attention_contexts, replica._linear_contexts = AttentionContexts(), LinearContexts()
        return replica

    def extra_repr(self) -> str:
        return (
            f"chunk_len={self.chunk_len}, overlap={self.overlap}, weights={self.weights!r}, "
            f"boundaries={self.boundaries!r}, merge={self.merge!r}"
        )
