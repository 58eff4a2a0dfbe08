"""The steps of a LongEncoder's call around the chunks: before it, what runs the model, and the output."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lckernels.long import exactness
from lckernels.long.batches import Batch
from lckernels.long.chunking import Chunks, Rows
from lckernels.long.rotary import dynamic_rotary, reset_frequencies
from lckernels.long.trial import Trial, try_at_call
from lckernels.long.unchanged import unchanged_by_calls
from lckernels.long.wrapper import EncoderWrapper

if TYPE_CHECKING:
    from lckernels.long.sizes import Chunking


class CallSteps(EncoderWrapper):
    """What a call of LongEncoder does beside its chunks; `lengthen` overrides some of it.

    Attributes:
        trial: what a trial run of the model found; None where there was none yet.
        chunking: sizes and rule of the chunks.
        halo: as in LongEncoder.
    """

    trial: Trial | None
    chunking: "Chunking"
    halo: str | None
    _is_dynamic: bool
    _positions_tried: bool
    _kind = "LongEncoder"  # in messages

    def _prepare(self) -> None:
        """Trial runs that were not possible before, and what a call resets in the model."""
        if self.trial is None:
            self.trial = try_at_call(self.model, self.device, self._model_call)
        if self.halo is not None:
            self._positions_tried = exactness.check_call(self, self._positions_tried)
        if self._is_dynamic:
            reset_frequencies(dynamic_rotary(self.model), self.device)

    @property
    def _rows(self) -> Rows:
        """`rows` of a call; any for tensors without values, on the meta device or under FakeTensorMode."""
        return Rows.ANY if self.trial is None else self.trial.rows

    @property
    def _model_call(self) -> Callable[..., Any]:
        """What runs the model on a chunk; `lengthen` has a call of its own."""
        return self.model

    @property
    def _call(self) -> Callable[..., Any]:
        """As `_model_call`; the model does not change in a call."""
        return self._unchanged(self._model_call)

    def _unchanged(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Runs `call`, after which the model is as before; one whose rows are of any lengths always is."""
        return call if self._rows is Rows.ANY else unchanged_by_calls(self.model, call)

    def _unpack(self, batch: Batch, chunks: Chunks, packed: list[Tensor]) -> list[Tensor]:
        """(batch, seqlen, dim) each, from merged states (total_len, dim); `lengthen` adds joints."""
        return [batch.unpack(states) for states in packed]

    def _pool(self, states: Tensor) -> Tensor | None:
        """The pooler_output of merged states (batch, seqlen, dim)."""
        return None

    def _as_tuple(self, output: Any) -> tuple[Any, ...]:
        return output.to_tuple()
