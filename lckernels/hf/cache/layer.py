"""A layer of transformers' KV cache that keeps the sink tokens and the window of a patched layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CacheLayerMixin

from lckernels.checks import bad
from lckernels.hf.masks.kept import KeptOffset, sink_slots

# Keys that a layer stores beyond its window, so that a step of generation appends to them in place.
_SPARE = 64


@dataclass
class Kept:
    """What the layers of one cache keep.

    Attributes:
        window: keys that a query sees, itself included.
        sink_tokens: first tokens of each row that it sees beside them.
        positions: as in `patch`.
        max_length: number of tokens that a static cache was made for; None for no bound.
        first: the slot of each row's first token, (batch,); None if every row begins with one.
        running: whether a patched model that rolls the cache is running.
    """

    window: int
    sink_tokens: int
    positions: str = "absolute"
    max_length: int | None = None
    first: Tensor | None = None
    running: bool = False

    @property
    def length(self) -> int:
        """Keys that the next query requires: the sink tokens, and the window without the query's own."""
        return self.sink_tokens + self.window - 1


class RollingLayer(CacheLayerMixin):
    """A cache layer that keeps the sink tokens and the window's last keys.

    The keys that `update` returns are those of the sink tokens, then consecutive ones. A mask's offset is
    smaller by the number of evicted keys; windows and sink tokens in it are as before.

    Attributes:
        kept: what is kept.
        buffers: keys and values, (batch, num_kv_heads, capacity, head_dim); None before the first key.
        begin: place of the first key in the buffers.
        length: number of keys, at most `kept.length` and those of the last call.
        num_evicted: number of keys that are not kept.
        record_past: whether keys are evicted by `crop` alone, as in assisted decoding.
        first: the slot of each row's first token, (batch,), as of the last call; None as in Kept.
    """

    is_sliding = False  # transformers sizes the mask of full attention by it
    is_compileable = False

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.buffers: tuple[Tensor, Tensor] | None = None
        self.begin = self.length = self.num_evicted = 0
        self.record_past = False
        self.first: Tensor | None = None
        self._sink_states: list[Tensor] | None = None  # keys and values of the sink tokens, once evicted

    @property
    def is_initialized(self) -> bool:
        """Whether the layer has had keys."""
        return self.buffers is not None

    @property
    def is_croppable(self) -> bool:
        """Whether `crop` can undo the last call."""
        return self.record_past or self.num_evicted == 0

    @property
    def keys(self) -> Tensor | None:
        """The kept keys, (batch, num_kv_heads, length, head_dim); None before the first."""
        return None if self.buffers is None else self._part(0)

    @property
    def values(self) -> Tensor | None:
        """The kept values, as `keys`."""
        return None if self.buffers is None else self._part(1)

    def _part(self, i: int) -> Tensor:
        return self.buffers[i][:, :, self.begin : self.begin + self.length]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Creates empty buffers for keys and values of these shapes and dtypes."""
        self.buffers = tuple(x.new_empty(*x.shape[:2], 0, x.shape[3]) for x in (key_states, value_states))

    def take(self, keys: Tensor, values: Tensor) -> None:
        """Stores copies of all these keys and values, of a layer before this one."""
        self.buffers, self.length = (keys.clone(), values.clone()), keys.shape[2]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Adds keys and values; returns what the queries of these tokens may see.

        Args:
            key_states: (batch, num_kv_heads, seqlen, head_dim).
            value_states: (batch, num_kv_heads, seqlen, head_dim_v).
            *args: of transformers, not used.
            **kwargs: the same.

        Raises:
            ValueError: the model that runs is not patched with the window of this cache.
        """
        if not self.kept.running:
            raise bad(
                "cache", f"a KV cache that keeps a window of {self.kept.window} keys",
                "expected a model under lckernels.patch with this window; another one requires a new cache",
            )  # fmt: skip
        rows = key_states.shape[0]
        if self.length and self.buffers[0].shape[0] != rows:
            got = f"keys of {self.buffers[0].shape[0]} rows for {rows}"
            raise bad("cache", got, "expected as many rows as in the calls before")
        self.first = self.kept.first
        if excess := self._excess():
            self._evict(excess)
        new, count = (key_states, value_states), key_states.shape[2]
        if self._has_room(count):
            end = self.begin + self.length
            for buffer, x in zip(self.buffers, new, strict=True):
                buffer[:, :, end : end + count] = x
            self.length += count
            return self._part(0), self._part(1)
        whole = new
        if self.length:
            whole = tuple(torch.cat([self._part(i), x], dim=2) for i, x in enumerate(new))
        self._store(whole)
        return whole

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys that `update` will return for so many tokens, and how many are evicted before."""
        excess = self._excess()
        evicted = self.num_evicted + excess
        if evicted and self.kept.sink_tokens and not torch.compiler.is_dynamo_compiling():
            evicted = KeptOffset(evicted, self.kept.sink_tokens)
        return self.length - excess + query_length, evicted

    def get_seq_length(self) -> int:
        """Number of tokens that the layer has had."""
        return self.num_evicted + self.length

    def get_max_length(self) -> int:
        """Number of tokens that a static cache was made for; -1 without a bound."""
        return -1 if self.kept.max_length is None else self.kept.max_length

    def activate_past_recording(self) -> None:
        """From now on `crop` evicts keys, not `update`."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the last tokens; raises where that requires keys that are evicted.

        Args:
            tokens_to_remove: their number as a negative int, as transformers has it.

        Raises:
            ValueError: a positive number, or more tokens than can be removed. The cache is then unchanged.
        """
        tokens_to_remove = int(tokens_to_remove)  # transformers 5.17 passes a tensor
        if tokens_to_remove > 0:
            raise bad("tokens_to_remove", tokens_to_remove, "expected minus the number of tokens to remove")
        most = self.length - (self.kept.length if self.num_evicted else 0)
        if -tokens_to_remove > max(most, 0):
            raise bad(
                "tokens_to_remove", tokens_to_remove,
                f"expected {-max(most, 0)} to 0: the KV cache keeps the keys of a window alone",
            )  # fmt: skip
        self.length += tokens_to_remove
        if self.record_past and self.length > self.kept.length:
            self._evict(self.length - self.kept.length)

    def reset(self) -> None:
        """Removes all keys."""
        self.buffers = self._sink_states = None
        self.begin = self.length = self.num_evicted = 0

    def offload(self) -> None:
        """Moves the keys to the CPU."""
        self._replace([x.to("cpu", non_blocking=True) for x in self.buffers or ()])

    def prefetch(self) -> None:
        """Does nothing: transformers calls it for caches that are offloaded, which do not roll."""

    def reorder_cache(self, rows: Tensor) -> None:
        """Takes these rows of the batch, (batch,)."""
        self._change_rows(lambda x: x.index_select(0, rows.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats each row."""
        self._change_rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps these rows."""
        self._change_rows(lambda x: x[indices])

    def _change_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self._replace([change(x) for x in self.buffers or ()])
        self.first = None if self.first is None else change(self.first)

    def _replace(self, buffers: list[Tensor]) -> None:
        if buffers:
            self.buffers, self._sink_states = (buffers[0], buffers[1]), None

    def _excess(self) -> int:
        """Number of keys that no later query sees."""
        return 0 if self.record_past else max(self.length - self.kept.length, 0)

    def _is_writable(self) -> bool:
        """Whether the buffers can be written in place: no backward reads them."""
        if torch.is_grad_enabled() or any(x.requires_grad for x in self.buffers):
            return False
        if torch.compiler.is_compiling():
            return True
        return not self.buffers[0].is_inference() or torch.is_inference_mode_enabled()

    def _has_room(self, count: int) -> bool:
        """Whether `count` more keys can be appended in place."""
        if not self.length or self.begin + self.length + count > self.buffers[0].shape[2]:
            return False
        return self._is_writable()

    def _evict(self, count: int) -> None:
        """Evicts keys from the buffers: those after the sink tokens, whose keys move to their end."""
        if self._sink_states is None or self.first is not None:
            self._sink_states = [self._sinks(self._part(i), count) for i in (0, 1)]
        self.begin, self.length = self.begin + count, self.length - count
        self.num_evicted += count
        end = self.begin + self.kept.sink_tokens
        if self._is_writable():
            for buffer, x in zip(self.buffers, self._sink_states, strict=True):
                buffer[:, :, self.begin : end] = x
        else:
            pairs = zip(self._sink_states, self.buffers, strict=True)
            self._replace([torch.cat([x, b[:, :, end : self.begin + self.length]], dim=2) for x, b in pairs])
            self.begin = 0

    def _sinks(self, x: Tensor, evicted: int) -> Tensor:
        """The keys of the sink tokens after `evicted` more keys of x are evicted, in memory of their own."""
        sinks, first = self.kept.sink_tokens, self.first
        if first is None or not sinks:
            return x[:, :, :sinks].clone()
        first = first.to(x.device)
        index = sink_slots(first, self.num_evicted + evicted, sinks) - self.num_evicted
        # The sink tokens of a row that begins in evicted slots are its first keys already.
        begins = (first <= self.num_evicted)[:, None]
        index = torch.where(begins, torch.arange(sinks, device=x.device), index)
        return x.take_along_dim(index[:, None, :, None], 2)

    def _store(self, whole: tuple[Tensor, Tensor]) -> None:
        """Stores those of the keys that are kept, with room for more; where a backward reads them, all."""
        length = whole[0].shape[2]
        if torch.is_grad_enabled() and any(x.requires_grad for x in whole):
            self._replace(list(whole))
            self.begin, self.length = 0, length
            return
        parts = [[x] for x in whole]
        if length > self.kept.length and not self.record_past:
            end, evicted = length - self.kept.window + 1, length - self.kept.length
            parts = [[self._sinks(x, evicted), x[:, :, end:]] for x in whole]
            self.num_evicted, length = self.num_evicted + evicted, self.kept.length
        self.begin, self.length = 0, length
        room = max(min(2 * length, self.kept.length), length) + _SPARE
        self._replace([_with_room(part, room) for part in parts])


def _with_room(parts: list[Tensor], capacity: int) -> Tensor:
    """A tensor with the parts side by side, of a capacity for more."""
    first = parts[0]
    buffer = first.new_empty(*first.shape[:2], capacity, first.shape[3])
    begin = 0
    for part in parts:
        buffer[:, :, begin : begin + part.shape[2]] = part
        begin += part.shape[2]
    return buffer
