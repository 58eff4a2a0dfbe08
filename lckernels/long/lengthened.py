"""The forward of a lengthened encoder: short rows run on the encoder, longer ones chunk by chunk."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.inner_forward import INNER, OuterForward
from lckernels.long.arguments import FixedTokensError, has_room
from lckernels.long.batches import Batch
from lckernels.long.chunking import Chunks
from lckernels.long.encoder import LongEncoder
from lckernels.long.head_trial import HeadTrial, pooling_at_call
from lckernels.long.joints import Joints
from lckernels.long.length_report import Report
from lckernels.long.pairs import PairRule, first_segments, second_segments
from lckernels.long.parts import Parts
from lckernels.long.pooling import pool
from lckernels.long.ranks import Runs
from lckernels.long.readers import prompt_length
from lckernels.prompts import KEY_ARGUMENTS, not_read, prompt_of_call

# Arguments that a task head or `generate` hands on to the encoder, which change no state.
_IGNORED = ("num_items_in_batch", "use_cache", "logits_to_keep")


class LengthenedEncoder(LongEncoder):
    """A LongEncoder whose model has a LengthenedForward; chunks run on the forward beneath that.

    Attributes:
        head: what a trial run found of the model's head.
        joints: rows between the states that neighbouring chunks contribute; None without.
    """

    head: HeadTrial = HeadTrial()
    joints: Joints | None = None
    _kind = "a row longer than a chunk"

    def _unpack(self, batch: Batch, chunks: Chunks, packed: list[Tensor]) -> list[Tensor]:
        if self.joints is None:
            return super()._unpack(batch, chunks, packed)
        return self.joints.unpack(self.model, batch, chunks, packed)

    @property
    def _model_call(self) -> Callable[..., Any]:
        return self._read_chunks

    def _read_chunks(self, **inputs: Any) -> Any:
        # Looked up in the call: the context of lckernels' attention replaces it.
        return self.model.__dict__[INNER](**inputs)

    def of_replica(self, replica: nn.Module) -> "LengthenedEncoder":
        """The encoder around a replica of its model by DataParallel."""
        copied = self._replicate_for_data_parallel()
        copied.model = replica
        return copied

    def prepare(self) -> None:
        """All trial runs of a call, so that ranks that share the model make the same ones."""
        self._prepare()
        self._try_pooling()

    def _try_pooling(self) -> None:
        if self.head.pooling is None:
            way = pooling_at_call(self.model, self.device, self._model_call)
            self.head = replace(self.head, pooling=way)

    def _pool(self, states: Tensor) -> Tensor | None:
        self._try_pooling()
        return pool(self.model, self.head.pooling, states)

    def _as_tuple(self, output: Any) -> tuple[Any, ...]:
        values = output.to_tuple()
        return (values[0], None, *values[1:]) if self.head.tuple_has_none else values


class LengthenedForward(OuterForward):
    """The forward of an encoder's instance; rows of at most one chunk run as before, argument for argument.

    Attributes:
        encoder: reads longer rows.
        prefixed: the same with the fixed prefix, for rows that do not begin with it; None without a prefix.
        pairs: how the first segment of a row is found, which every chunk reads; None: rows are one segment.
        report: of `lengthen`.
        parts: what `lengthen` changed, with the tokenizer whose limit is raised; None in a copy.
        left_padding: whether rows may be padded on the left: no head reads the first token of a row.
    """

    def __init__(
        self,
        encoder: LengthenedEncoder,
        prefixed: LengthenedEncoder | None,
        pairs: PairRule | None,
        report: Report,
        parts: Parts | None,
        left_padding: bool = False,
    ) -> None:
        super().__init__(encoder.model)
        self.encoder, self.prefixed, self.pairs = encoder, prefixed, pairs
        self.report, self.parts = report, parts
        self.left_padding = left_padding

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": None}

    def of_replica(self, replica: nn.Module) -> "LengthenedForward":
        copied = super().of_replica(replica)
        copied.encoder = self.encoder.of_replica(replica)
        copied.prefixed = self.prefixed and self.prefixed.of_replica(replica)
        return copied

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tokens = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        if not isinstance(tokens, Tensor):
            example = "model(**tokenizer(text, return_tensors='pt'))"
            got = type(tokens).__name__
            raise TypeError(f"input_ids: got {got}; expected a tensor (batch, seqlen), as in {example}")
        keys = _num_keys(kwargs)
        if keys and not self._takes_keys:
            got = not_read(type(self.module).__name__, keys)
            raise TypeError(f"past_key_values: got {got}; expected another PEFT method")
        fits = tokens.dim() < 2 or tokens.shape[1] <= self.encoder.chunk_len
        shared = self.encoder.ranks.find()
        for encoder in (self.encoder, self.prefixed) if shared else ():
            if encoder is not None:
                encoder.prepare()
        if fits and self.prefixed is None:
            return self._as_before(shared, args, kwargs)
        return _read_long(self, fits, shared, args, kwargs)

    def read(self, fits: bool, shared: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The output for rows that are longer than a chunk, or that may not begin with the fixed prefix."""
        given = self._by_name(args, kwargs)
        self._check(given, fits)
        encoder, num_leading, num_trailing = self._fixed(given)
        if fits and encoder is self.encoder:
            return self._as_before(shared, args, kwargs)
        try:
            with encoder.ranks.found():
                return encoder(**given, num_leading=num_leading, num_trailing=num_trailing)
        except FixedTokensError as error:
            if error.argument != "num_leading":
                raise
            virtual = "virtual tokens and " if prompt_of_call()[0] and "inputs_embeds" in given else ""
            got = f"{virtual}a first segment of {error.got}"
            raise bad("prefix", got, error.allowed) from None

    @property
    def _takes_keys(self) -> bool:
        return any(name in self.__signature__.parameters for name in KEY_ARGUMENTS)

    def _as_before(self, shared: bool, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The encoder's own output; where ranks share its weights, each runs it equally often."""
        call = self.encoder._unchanged(self.inner)
        if not shared:
            return call(*args, **kwargs)
        given = self._by_name(args, kwargs)
        tokens = {name: given[name] for name in ("input_ids", "inputs_embeds") if name in given}
        runs = Runs(self.encoder, lambda count: {name: x[:1, :count] for name, x in tokens.items()}, 1)
        return runs.finish_output(call(*args, **kwargs))

    def _by_name(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, without those that change no state or are not set."""
        parameters = self.__signature__.parameters.values()
        given = {**dict(zip((p.name for p in parameters), args, strict=False)), **kwargs}
        return {name: x for name, x in given.items() if x is not None and name not in _IGNORED}

    def _check(self, given: dict[str, Any], fits: bool) -> None:
        """Raises ValueError for keys before those of a row, and for a long row in an exported program."""
        if not fits and (torch.compiler.is_exporting() or torch.jit.is_tracing()):
            expected = f"expected at most {self.encoder.chunk_len} tokens: chunks are planned on the host"
            raise bad("input_ids", "a row longer than a chunk in torch.export or torch.jit.trace", expected)
        keys = _num_keys(given)
        if keys:
            got = f"{keys} keys before the rows"
            allowed = "PEFT's prefix tuning is supported by LongEncoder(model), not by lengthen"
            raise bad("past_key_values", got, allowed)

    def _fixed(self, given: dict[str, Any]) -> tuple[LengthenedEncoder, Tensor | None, Tensor | None]:
        """The encoder that reads the rows; how many first and last tokens of each its chunks all read.

        None: as many as special tokens.
        """
        encoder = self.encoder
        tokens = given.get("input_ids", given.get("inputs_embeds"))
        first, lengths = _token_ranges(tokens, given.get("attention_mask"), self.left_padding)
        virtual, ids = _prompt(given, tokens.shape)
        leading, trailing = encoder.special_tokens[0] + virtual, encoder.special_tokens[1]
        ids, types = (_without_left_padding(x, first) for x in (ids, given.get("token_type_ids")))
        leads = torch.full_like(lengths, leading)
        if self.prefixed is not None:
            if self._begin_with_prefix(ids, lengths, leading):
                if encoder.merge == "layer":
                    allowed = "merge='layer' supports rows that do not contain it; use merge='final'"
                    raise bad("prefix", "rows that begin with it", allowed)
                return encoder, leads + len(self.prefixed.prefix), None
            encoder = self.prefixed
        elif self.pairs is not None:
            leads = first_segments(self.pairs, ids, types, lengths, (leading, trailing))
            prompt = (lengths - trailing).clamp(max=prompt_length())
            leads = torch.where(leads == leading, torch.maximum(leads, prompt), leads)
        if (leads == encoder.special_tokens[0]).all():
            return encoder, None, None
        if encoder.merge == "layer":
            row = int((leads > encoder.special_tokens[0]).nonzero()[0])
            got = "a prompt" if prompt_length() else f"two segments in row {row}"
            got = f"{virtual} virtual tokens" if virtual else got
            raise bad("prefix", got, "merge='layer' supports rows of one segment; use merge='final'")
        if self.pairs is None:
            return encoder, leads, None
        # A document before a short segment, such as the hypothesis of a zero-shot classifier.
        ends = second_segments(self.pairs, ids, leads, lengths, trailing)
        is_first = (leads > leading) & ~has_room(leads + trailing, lengths, encoder.chunking)
        is_first &= has_room(leading + ends, lengths, encoder.chunking)
        if not is_first.any():
            return encoder, leads, None
        leads, trails = torch.where(is_first, leading, leads), torch.where(is_first, ends, trailing)
        return encoder, leads, trails

    def _begin_with_prefix(self, input_ids: Tensor | None, lengths: Tensor, start: int) -> bool:
        """Whether in every row the fixed prefix is at `start`; raises ValueError if only in some."""
        if input_ids is None:
            return False
        prefix = self.prefixed.prefix
        begins = input_ids[:, start : start + len(prefix)]
        if begins.shape[1] < len(prefix):
            return False
        same = (begins.cpu() == prefix.cpu()).all(1) & (lengths >= start + len(prefix))
        if same.any() and not same.all():
            row = int((~same).nonzero()[0])
            raise bad("input_ids", f"row {row} without the prefix", "other rows of the batch begin with it")
        return bool(same.all())


@partial(torch.compiler.disable, reason="lckernels plans the chunks of a row on the host")
def _read_long(forward: LengthenedForward, *args: Any) -> Any:
    return forward.read(*args)


def _num_keys(given: dict[str, Any]) -> int:
    """The keys before those of the rows, as PEFT's prefix tuning passes them."""
    keys = next((given[name] for name in KEY_ARGUMENTS if given.get(name) is not None), None)
    return 0 if keys is None else keys.get_seq_length()


def _prompt(given: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, Tensor | None]:
    """Virtual tokens before each row, as of PEFT's prompt tuning, and the ids (batch, seqlen) if known.

    A virtual token has the id -1.
    """
    if "inputs_embeds" not in given:
        return 0, given.get("input_ids")
    virtual, ids = prompt_of_call()
    if ids is None or (ids.shape[0], ids.shape[-1] + virtual) != shape[:2]:
        return virtual, None
    return virtual, nn.functional.pad(ids, (virtual, 0), value=-1)


def _token_ranges(tokens: Tensor, mask: Tensor | None, left_padding: bool) -> tuple[Tensor, Tensor]:
    """(batch,) int64 on the CPU each: the first column of each row's tokens, and their number.

    Raises:
        ValueError: padding on the left where that is not supported.
    """
    if mask is None or mask.shape != tokens.shape[:2]:  # another shape is an error of LongEncoder
        lengths = torch.full(tokens.shape[:1], tokens.shape[1], dtype=torch.int64, device="cpu")
        return torch.zeros_like(lengths), lengths
    is_token = mask.detach().cpu() != 0
    first = is_token.long().argmax(1)
    if not left_padding and (first > 0).any():
        expected = "expected padding on the right: a head reads the first token of a row"
        row = int((first > 0).nonzero()[0])
        raise bad("attention_mask", f"padding on the left in row {row}", expected)
    return first, is_token.sum(1)


def _without_left_padding(values: Tensor | None, first: Tensor) -> Tensor | None:
    """(batch, seqlen): each row begins with its first token; what was before that is at its end."""
    if values is None or not first.any():
        return values
    column = torch.arange(values.shape[1], device="cpu") + first[:, None]
    return values.gather(1, (column % values.shape[1]).to(values.device))
