"""The score of "no answer" of a long text: the smallest of its chunks' own."""

from typing import Any

from torch import Tensor

from lckernels.long.summary import ChunkSummaries
from lckernels.tasks.documents import Document
from lckernels.tasks.reader import DocumentReader
from lckernels.tasks.state_head import StateHead

_TOLERANCE = 1e-2  # of the largest score: rounding in fp16 and bf16


class NullScores:
    """The scores of "no answer" of texts that a model for question answering has read.

    Args:
        reader: of the texts.
    """

    def __init__(self, reader: DocumentReader) -> None:
        self.reader, self.column = reader, reader.num_virtual
        self._head: StateHead | None = None
        self._reads_own = False

    def score(self, document: Document, row: int, merged: float, summaries: ChunkSummaries | None) -> float:
        """start + end at the first token of a document, the smallest of its chunks.

        Args:
            document: a question and a text.
            row: of the document in the call of the model.
            merged: start + end from the merged state. It is the result for a document of one chunk, without
                `summaries`, and for a head that reads other states of the row for it.
            summaries: of the call, with the states of the first token at least.
        """
        # Chunks of a model with a prefix of its own do not read the question; a decoder reads all states.
        is_apart = self.reader.reads_pairs and not self.reader.parts.is_encoder_decoder
        if summaries is None or not is_apart:
            return merged
        chunks = summaries.chunks.documents == row  # each keeps tokens of the text
        if int(chunks.sum()) < 2:
            return merged
        states = summaries.states[chunks.to(summaries.states.device), self.column, None]
        ids = document.input_ids[None, : document.leading + 1].to(states.device)
        if self._head is None:
            inputs = self.reader.short_inputs(pair=True)
            self._head = StateHead(self.reader.model, self.reader.parts.encoder, inputs)
            self._reads_own = self._head.states is not None and self._try(ids)
        return float(self._scores(states, ids[:, :1], 0).min()) if self._reads_own else merged

    def _try(self, ids: Tensor) -> bool:
        """Whether the first token's state alone has the score that it has in a row (1, seqlen) of ids."""
        states, others = self._head.random_states(4, self.column + ids.shape[1], 2)
        first = states[:, self.column, None]
        others[:, self.column] = first[:, 0]
        alone = self._scores(first, ids[:, :1], 0)
        in_rows = [self._scores(x, ids, self.column) for x in (states, others)]
        bound = _TOLERANCE * alone.abs().max()
        return all(bool((x - alone).abs().max() <= bound) for x in in_rows)

    def _scores(self, states: Tensor, ids: Tensor, column: int) -> Tensor:
        """(rows,) fp64 of the rows of states, at a column."""

        def read(output: Any) -> Tensor:
            return output.start_logits[:, column].double() + output.end_logits[:, column].double()

        return self._head.results(states, ids, read)
