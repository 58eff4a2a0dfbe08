"""A call of windowed_attention in a graph, and the operator that it becomes."""

from dataclasses import dataclass
from typing import Any

import onnxscript.ir as ir

from lckernels.fields import FlatOptions
from lckernels.onnx.operators import INVISIBLE

# What a key is invisible by: the score of a valid key must be far above that of an invalid one.
_MIN_MARGIN = 1e3
_WINDOW_LIMIT = 2**30  # no sequence is as long


class NotTranslated(ValueError):
    """A call without a translation to ONNX."""


@dataclass(frozen=True)
class Call:
    """A call whose numbers are known at the export.

    Attributes:
        q: value (batch, seqlen_q, num_heads, head_dim) of the graph.
        k: value (batch, seqlen_k, num_kv_heads, head_dim).
        v: value (batch, seqlen_k, num_kv_heads, head_dim_v).
        options: as the op takes them; tensors and symbolic numbers are values of the graph.
    """

    q: Any
    k: Any
    v: Any
    options: FlatOptions

    def __post_init__(self) -> None:
        check(self)

    @property
    def window(self) -> tuple[int, int]:
        """(left, right); -1 for a bound that no sequence reaches."""
        left, right = self.options.window_size
        return tuple(-1 if x >= _WINDOW_LIMIT else x for x in (left, right))

    @property
    def num_heads(self) -> int:
        """Heads of q."""
        return self.q.shape[2]

    @property
    def num_kv_heads(self) -> int:
        """Heads of k and v."""
        return self.k.shape[2]

    @property
    def head_dim(self) -> int:
        """Of q and k."""
        return self.q.shape[3]

    @property
    def head_dim_v(self) -> int:
        """Of v."""
        return self.v.shape[3]

    @property
    def padded(self) -> bool:
        """Whether keys may be invalid."""
        options = self.options
        return any(x is not None for x in (options.kv_start, options.kv_end, options.kv_mask))

    @property
    def is_self_attention(self) -> bool:
        """Whether query i is at key i, and there are as many keys as queries."""
        rows, keys = self.q.shape[1], self.k.shape[1]
        known = isinstance(rows, int) or rows.value is not None
        offset = self.options.offset
        aligned = self.options.offset_tensor is None and (offset is None or _is_zero(offset))
        return known and rows == keys and aligned

    @property
    def by_window(self) -> bool:
        """Whether window and padding are all that hides a key, and no bias is added."""
        options = self.options
        return (
            not options.sink_tokens and not options.chunk and options.segment_ids is options.rel_bias is None
        )

    @property
    def hides_by_column(self) -> bool:
        """Whether one more column of q and k can hide invalid keys."""
        options = self.options
        return (
            not options.softcap and options.softmax_scale * -INVISIBLE.get(self.q.dtype, 0.0) >= _MIN_MARGIN
        )


def _is_zero(x: Any) -> bool:
    return isinstance(x, int) and x == 0


def check(call: Call) -> None:
    """Raises NotTranslated for what has no translation."""
    options = call.options
    if options.dropout_p:
        raise NotTranslated(f"dropout_p: got {options.dropout_p}; expected 0, as in model.eval()")
    if options.cu_seqlens_q is not None:
        raise NotTranslated(
            "cu_seqlens_q: got a tensor; an export to ONNX requires one sequence a row, or segment_ids"
        )
    for name in ("window_size", "sink_tokens", "chunk", "bias_center"):
        value = getattr(options, name)
        for x in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(x, int):
                raise NotTranslated(f"{name}: got a number that depends on the input; expected a constant")
    for name, x, dims in (("q", call.q, (2, 3)), ("k", call.k, (2, 3)), ("v", call.v, (3,))):
        if not all(isinstance(x.shape[dim], int) for dim in dims):
            raise NotTranslated(
                f"{name}: got shape {x.shape}; expected a constant number of heads and head dim"
            )


def operator(call: Call) -> str:
    """What the call becomes: "gqa", "gqa with bias", "mha" or "plain"."""
    left, right = call.window
    options = call.options
    hides = call.hides_by_column
    if call.q.dtype == ir.DataType.DOUBLE:
        return "plain"
    if call.by_window and left < 0 and right < 0:
        fits = options.sink_logits is None and not options.softcap and (hides or not call.padded)
        return "mha" if fits else "plain"
    if not call.is_self_attention or right < 0:
        return "plain"
    if call.by_window and (hides or not (call.padded or right)) and (left < 0 or left >= right):
        return "gqa"
    return "plain" if right else "gqa with bias"
