"""A sequence that grows: an append reads the chunks that changed, and returns the states that are final."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lckernels.checks import bad, integers
from lckernels.functional import overlap_merge
from lckernels.long.batches import Batch, check_token_ids, read_batch
from lckernels.long.chunking import Chunks, chunk_documents, micro_batches
from lckernels.long.outputs import Outputs
from lckernels.long.stream_summary import StreamSummary
from lckernels.long.trial import check_row_length
from lckernels.plan import Plan
from lckernels.segments import Column

if TYPE_CHECKING:
    from lckernels.long.encoder import LongEncoder


@dataclass(frozen=True, eq=False)
class StreamStates:
    """What an append returned: the states from position `first` on.

    Attributes:
        first: position of the first state of `final`; leading special tokens count.
        final: (num_final, dim), which no later append changes.
        provisional: (num_provisional, dim), the states after them, those of the trailing special tokens
            included, as if the sequence ended here. The next append returns them again.
        leading: (num_leading, dim), those of the leading special tokens, as if the sequence ended here. With
            summary="mean" each append changes them, and they replace the first rows of `final`.
    """

    first: int
    final: Tensor
    provisional: Tensor
    leading: Tensor


class Stream:
    """The states of a sequence that grows; `LongEncoder.stream` returns one.

    `final` of all appends and `provisional` of the last one are together the states of the encoder's call
    with the whole sequence; with summary="mean" `leading` of the last one replaces the first of them.

    Args:
        encoder: with merge="final", the rule "sled" or "max_context", and weights by name.
        leading: ids of the special tokens at the beginning.
        trailing: ids of the special tokens at the end.

    Raises:
        ValueError: another encoder, or not as many ids as the encoder has special tokens.
    """

    def __init__(self, encoder: "LongEncoder", leading: Sequence[int], trailing: Sequence[int]) -> None:
        if encoder.merge != "final":
            raise bad("merge", repr(encoder.merge), "a stream requires merge='final'")
        if encoder.boundaries == "sentence":
            raise bad("boundaries", "'sentence'", "a stream supports 'sled' and 'max_context'")
        if not isinstance(encoder.weights, str):
            raise bad("weights", type(encoder.weights).__name__, "a stream requires weights by name")
        self.encoder = encoder
        self._leading = _special_tokens("leading", leading, encoder.special_tokens[0])
        self._trailing = _special_tokens("trailing", trailing, encoder.special_tokens[1])
        self._step = self._room - encoder.overlap
        self._content = self._leading.new_empty(0)  # from the first chunk on that has a state to come
        self._provisional = self._content  # what followed it
        self._num_dropped = 0  # tokens before `_content`, a multiple of the step
        self._num_final = 0
        self._states: dict[int, Tensor] = {}  # (chunk_len, dim) of the chunks of `_content` that stay
        self._summary = StreamSummary(encoder.summary, len(self._leading))

    @property
    def num_tokens(self) -> int:
        """Tokens so far, special tokens included, provisional ones left out."""
        return self._num_dropped + len(self._leading) + len(self._content) + len(self._trailing)

    @property
    def num_final(self) -> int:
        """Positions whose states are final."""
        return self._num_final

    @torch.no_grad()
    def append(
        self, input_ids: Sequence[int] | Tensor, provisional: Sequence[int] | Tensor = ()
    ) -> StreamStates:
        """The states that further tokens make final, and those after them.

        The model reads the chunks that are new or changed: the last one, and one for each time that the
        sequence has grown by a chunk's content without its overlap. States have no gradient.

        Args:
            input_ids: (num_tokens,) or (1, num_tokens) integers without special tokens; at least one, unless
                there are provisional ones.
            provisional: (num_tokens,) integers that follow them and that the next append replaces, as the
                last tokens of a text that grows. Their states are provisional.

        Raises:
            ValueError: no tokens, several rows, or ids that the model's embedding does not have.
        """
        if isinstance(input_ids, Tensor) and input_ids.dim() == 2 and len(input_ids) == 1:
            input_ids = input_ids[0]
        new, last = integers("input_ids", input_ids), integers("provisional", provisional)
        if not len(new) and not len(last):
            raise bad("input_ids", "no tokens", "expected at least one")
        settled = torch.cat([self._content, new])
        content = torch.cat([settled, last])
        agreed = _num_equal(content, torch.cat([self._content, self._provisional]))
        states = {n: x for n, x in self._states.items() if n < self._num_staying(agreed)}
        batch = read_batch(
            torch.cat([self._leading, content, self._trailing])[None], None, None, None,
            self.encoder.chunking.num_special,
        )  # fmt: skip
        check_token_ids(batch, self.encoder.model)
        # Numbers of chunks, and positions, count from those that were dropped.
        chunks = chunk_documents(batch.flat_first, batch.lengths, batch.num_entries, self.encoder.chunking)
        first, ends = self._num_final - self._num_dropped, _ends(chunks)
        missing = [n for n, end in enumerate(ends) if end > first and n not in states]
        states |= self._read(batch, chunks, missing)
        merged = self._merge(chunks, first, {n: x for n, x in states.items() if ends[n] > first})
        final = max(first, self._begin_of_last(len(settled)))
        stays = self._num_staying(len(content))
        drop = next(n for n, end in enumerate(ends) if end > final)
        leading = self._summary.add(chunks, states, drop, drop * self._step)
        self._states = {n - drop: x for n, x in states.items() if drop <= n < stays}
        self._content, self._provisional = settled[drop * self._step :], last
        self._num_dropped += drop * self._step
        begin, self._num_final = self._num_final, self._num_final + final - first
        return StreamStates(begin, merged[: final - first], merged[final - first :], leading)

    @property
    def _room(self) -> int:
        """Content of a full chunk."""
        chunking = self.encoder.chunking
        return chunking.chunk_len - chunking.num_special - chunking.num_prefix

    def _begin_of_last(self, num_content: int) -> int:
        """Where the last chunk begins: a longer sequence has other chunks from there on, and only there."""
        over = num_content - self._room
        return len(self._leading) + over if over > 0 else 0

    def _num_staying(self, num_content: int) -> int:
        """Chunks that a sequence with this beginning has: full ones that begin at a multiple of the step."""
        over = num_content - self._room
        return 0 if over < 0 else over // self._step + 1

    def _read(self, batch: Batch, chunks: Chunks, numbers: list[int]) -> dict[int, Tensor]:
        """The states (chunk_len, dim) of these chunks, by number; chunks of one sequence have one length."""
        if not numbers:
            return {}
        encoder, width = self.encoder, chunks.chunk_len
        encoder._prepare()
        check_row_length(encoder.model, encoder.trial, [width])
        outputs = Outputs(encoder.model, hidden_states=False)
        entries = batch.entries(encoder.device, encoder.prefix, encoder.model)
        device = encoder.output_device or encoder.device
        states: dict[int, Tensor] = {}
        with encoder._attention_contexts.of(encoder.model, encoder.attention, width):
            for start, stop in micro_batches([width] * len(numbers), encoder.max_tokens, encoder._rows):
                some = numbers[start:stop]
                index = chunks.index[some].to(encoder.device)
                inputs = entries.gather(index, [width] * len(some))
                output = encoder._call(**inputs, output_hidden_states=False, return_dict=True)
                (state,) = outputs.states(output, tuple(index.shape))
                states.update(zip(some, state.to(device), strict=True))
        return states

    def _merge(self, chunks: Chunks, first: int, states: dict[int, Tensor]) -> Tensor:
        """The merged states from `first`, which is not final, to the end."""
        numbers = sorted(states)
        rows_read = torch.tensor(numbers, device="cpu")
        segments = chunks.segments[torch.isin(chunks.segments[:, Column.ROW], rows_read)].clone()
        if self._num_dropped:  # the first chunk is not that of the sequence
            segments = segments[segments[:, Column.START] >= len(self._leading)]
            segments[segments[:, Column.ROW] == 0, Column.STARTS_DOCUMENT] = 0
        if self.encoder.weights == "crop":  # each position is kept once, so those that are final leave
            segments = _without_first(segments, first)
        begin = int(segments[:, Column.START].min())
        segments[:, Column.ROW] = torch.searchsorted(rows_read, segments[:, Column.ROW].contiguous())
        segments[:, Column.START] -= begin
        plan = Plan.from_segments(
            segments, num_chunks=len(numbers), chunk_len=chunks.chunk_len, total_len=chunks.total_len - begin
        )
        rows = torch.stack([states[number] for number in numbers])
        is_whole = chunks.num_chunks == 1 and not self._num_dropped
        weights = "uniform" if is_whole else self.encoder.weights
        return overlap_merge(rows, plan.to(rows.device), weights)[first - begin :]


def _ends(chunks: Chunks) -> list[int]:
    """The position after each chunk, by number; the last chunk has the trailing special tokens too."""
    segments = chunks.segments
    ends = torch.zeros(chunks.num_chunks, dtype=torch.int64, device="cpu")
    ends.scatter_reduce_(
        0, segments[:, Column.ROW], segments[:, Column.START] + segments[:, Column.LENGTH], "amax"
    )
    return ends.tolist()


def _without_first(segments: Tensor, position: int) -> Tensor:
    """The segments without what is before a position; their keep ranges are relative to them."""
    cut = (position - segments[:, Column.START]).clamp(min=0)
    segments[:, [Column.COL, Column.START]] += cut[:, None]
    segments[:, Column.LENGTH] -= cut
    keep = [Column.KEEP_START, Column.KEEP_END]
    segments[:, keep] = (segments[:, keep] - cut[:, None]).clamp(min=0)
    return segments[segments[:, Column.LENGTH] > 0]


def _num_equal(ids: Tensor, others: Tensor) -> int:
    """How many first ids two sequences share."""
    size = min(len(ids), len(others))
    differ = (ids[:size] != others[:size]).nonzero()
    return int(differ[0]) if len(differ) else size


def _special_tokens(name: str, ids: Sequence[int], number: int) -> Tensor:
    tokens = integers(name, ids)
    if len(tokens) != number:
        raise bad(name, f"{len(tokens)} ids", f"the encoder has {number} such special tokens")
    return tokens
