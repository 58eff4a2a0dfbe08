"""transformers' mask functions, read: from the closures that say which keys a query sees to a KeyMask."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

from lckernels.hf.mask import CAUSAL, FULL, KeyMask, Window, padding_layout
from lckernels.options import Layout

_AND = "and_masks.<locals>.and_mask"
_BOTH_SIDES = "_bidirectional_window_overlay.<locals>.inner_mask"


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which keys a query sees, padding apart, in slots of the whole cache.

    window, chunk, chunk_origin, segment_ids: as in windowed_attention and its Layout. positions: (batch,
    seqlen) of packed texts, if window and chunk count in these instead of in slots.
    """

    window: Window = FULL
    chunk: int = 0
    chunk_origin: int | Tensor = 0
    segment_ids: Tensor | None = None
    positions: Tensor | None = None

    def __and__(self, other: "Pattern") -> "Pattern":
        """Both at once: the narrower bounds; chunk, segments and positions of the one that has them."""
        sides = zip(self.window, other.window, strict=True)
        window = tuple(min((x for x in pair if x >= 0), default=-1) for pair in sides)
        one = self if self.chunk else other
        return Pattern(
            window, one.chunk, one.chunk_origin,
            other.segment_ids if self.segment_ids is None else self.segment_ids,
            other.positions if self.positions is None else self.positions,
        )  # fmt: skip


def _two_sided(left: int, right: int) -> Pattern | None:
    """Keys at a distance below `left` behind and below `right` ahead; None if no key is."""
    return Pattern((left - 1, max(right - 1, 0))) if left > 0 else None


def _behind(inside: dict[str, Any]) -> Pattern | None:
    width = inside["sliding_window"]
    return Pattern((width - 1, -1)) if width > 0 else None


def _both_sides(inside: dict[str, Any]) -> Pattern | None:
    return _two_sided(*(inside["sliding_window"],) * 2)


def _t5gemma2(inside: dict[str, Any]) -> Pattern | None:
    width = inside["sliding_window"]
    return _two_sided(width, 0) if inside["is_causal"] else _two_sided((width + 1) // 2, width // 2 + 1)


def _all_of(inside: dict[str, Any]) -> Pattern | None:
    parts = [read_pattern(function) for function in inside["mask_functions"]]
    if not parts or any(part is None for part in parts):
        return None
    if sum(bool(part.chunk) for part in parts) > 1 or sum(part.segment_ids is not None for part in parts) > 1:
        return None
    result = parts[0]
    for part in parts[1:]:
        result = result & part
    return result


def _any_of(inside: dict[str, Any]) -> Pattern | None:
    """A window that holds all of them, where each is a window that holds the token itself."""
    parts = [read_pattern(function) for function in inside["mask_functions"]]
    if any(part is None or part.chunk or part.segment_ids is not None for part in parts):
        return None
    if any(part.positions is not None for part in parts):
        return None
    sides = zip(*(part.window for part in parts), strict=True)
    return Pattern(tuple(-1 if -1 in side else max(side) for side in sides))


def _remapped(inside: dict[str, Any]) -> Pattern | None:
    inner = read_pattern(inside["mask_function"])
    return None if inner is None else replace(inner, positions=inside["position_ids"])


# Functions that transformers makes on the way to a mask, by module and name, and what their closures say.
_READERS: dict[tuple[str, str], Callable[[dict[str, Any]], Pattern | None]] = {
    ("masking_utils", _AND): _all_of,
    ("masking_utils", "or_masks.<locals>.or_mask"): _any_of,
    ("masking_utils", "causal_mask_function"): lambda inside: Pattern(CAUSAL),
    ("masking_utils", "bidirectional_mask_function"): lambda inside: Pattern(),
    ("masking_utils", "sliding_window_overlay.<locals>.inner_mask"): _behind,
    ("masking_utils", "sliding_window_bidirectional_overlay.<locals>.inner_mask"): lambda inside: _two_sided(
        *(inside["sliding_window"] + 1,) * 2
    ),
    ("masking_utils", "chunked_overlay.<locals>.inner_mask"): lambda inside: Pattern(
        chunk=inside["chunk_size"], chunk_origin=inside["left_padding"]
    ),
    ("masking_utils", "packed_sequence_mask_function.<locals>.inner_mask"): lambda inside: Pattern(
        segment_ids=inside["packed_sequence_mask"]
    ),
    ("masking_utils", "remap_positions_for_packed_sequence.<locals>.inner_mask"): _remapped,
    ("modeling_gemma3", _BOTH_SIDES): _both_sides,
    ("modeling_gemma3", "Gemma3TextModel.forward.<locals>.<lambda>"): lambda inside: Pattern(),
    ("modeling_step3p7", _BOTH_SIDES): _both_sides,
    ("modeling_step3p7", "Step3p7TextModel.forward.<locals>.<lambda>"): lambda inside: Pattern(),
    ("modeling_t5gemma2", "sliding_window_mask_function.<locals>.inner_mask"): _t5gemma2,
    ("modeling_moonshine_streaming", "sliding_window_mask_function.<locals>.inner_mask"): lambda inside: (
        _two_sided(*inside["sliding_window"])
    ),
}


def read_pattern(mask_function: Callable) -> Pattern | None:
    """What a mask function of transformers says; None if it is not known or its closure does not fit."""
    module = (getattr(mask_function, "__module__", None) or "").rpartition(".")
    reader = _READERS.get((module[2], getattr(mask_function, "__qualname__", "")))
    if reader is None or not module[0].startswith("transformers"):
        return None
    try:
        pattern = reader(dict(inspect.getclosurevars(mask_function).nonlocals))
    except (KeyError, TypeError):  # its variables have other names or kinds than we know
        return None
    fits = pattern is not None and all(isinstance(x, int) for x in (*pattern.window, pattern.chunk))
    return pattern if fits and min(pattern.window) >= -1 else None


def _packed_layout(pattern: Pattern) -> Layout | None:
    """Segments, with a chunk of positions folded into them; None where positions come without segments."""
    ids, positions = pattern.segment_ids, pattern.positions
    if positions is None:
        return Layout(segment_ids=ids, chunk=pattern.chunk, chunk_origin=pattern.chunk_origin)
    if ids is None:
        return None
    if pattern.chunk:
        origin = pattern.chunk_origin
        origin = origin[:, None] if isinstance(origin, Tensor) else origin
        chunks = (positions - origin) // pattern.chunk
        new = F.pad((ids.diff() != 0) | (chunks.diff() != 0), (1, 0))
        ids = new.cumsum(-1)
    return Layout(segment_ids=ids)


def key_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> KeyMask | None:
    """The mask as a KeyMask, None where it is no such; arguments as of `make_mask`. No tensor is N x N."""
    if attention_mask is not None and (attention_mask.ndim != 2 or len(attention_mask) != batch_size):
        return None
    shape, device = (batch_size, 1, q_length, kv_length), torch.device(device)
    offset = q_offset - kv_offset
    padding = padding_layout(_valid_keys(attention_mask, kv_length, kv_offset))
    where = replace(padding, offset=offset)
    if mask_function is causal_mask_function:
        return KeyMask.of(shape, device, CAUSAL, where)
    if mask_function is bidirectional_mask_function:
        return KeyMask.of(shape, device, FULL, where)
    if torch.compiler.is_compiling():
        return _traced(shape, device, where, mask_function, attention_mask, kv_offset, use_vmap, options)
    pattern = read_pattern(mask_function)
    packed = None if pattern is None else _packed_layout(pattern)
    if packed is None:
        return None
    ids = packed.segment_ids
    if ids is not None and (q_length != kv_length or not isinstance(offset, int) or offset):
        return None
    where = replace(
        where,
        segment_ids=None if ids is None else ids.to(device).expand(batch_size, kv_length),
        chunk=packed.chunk,
        chunk_origin=packed.chunk_origin - kv_offset,
    )
    return KeyMask.of(shape, device, pattern.window, where)


def _valid_keys(attention_mask: Tensor | None, kv_length: int, kv_offset: int) -> Tensor | None:
    """(batch, kv_length) bool: slots beyond the mask are not written yet."""
    if attention_mask is None:
        return None
    missing = kv_offset + kv_length - attention_mask.shape[1]
    if missing > 0:
        attention_mask = F.pad(attention_mask, (0, missing))
    return attention_mask[:, kv_offset : kv_offset + kv_length]


def _traced(
    shape: tuple[int, ...],
    device: torch.device,
    where: Layout,
    mask_function: Callable,
    attention_mask: Tensor | None,
    kv_offset: int,
    use_vmap: bool,
    options: dict[str, Any],
) -> KeyMask | None:
    """A KeyMask that its layer completes: under torch.compile closures cannot be read."""
    if use_vmap or not isinstance(mask_function, FunctionType) or mask_function.__qualname__ != _AND:
        return None
    batch, _, seqlen_q, seqlen_k = shape
    causal = "allow_is_bidirectional_skip" not in options
    whole = seqlen_q == seqlen_k and isinstance(where.offset, int) and where.offset == kv_offset == 0
    padding = 0 if attention_mask is None else (attention_mask.cumsum(-1) == 0).sum(-1)
    where = replace(where, chunk_origin=padding - kv_offset)
    if attention_mask is None and whole and causal and not options.get("allow_is_causal_skip", True):
        # Packed texts come so; whatever else does is one text.
        where = replace(where, segment_ids=_traced_segments(mask_function, batch, seqlen_k, device))
    mask = KeyMask.of(shape, device, None, where)
    mask.local_size, mask.causal = options.get("local_size"), causal
    # The compiler drops it if no layer takes it.
    mask.dense_mask = sdpa_mask(
        batch, seqlen_q, seqlen_k, where.offset + kv_offset, kv_offset, mask_function=mask_function,
        attention_mask=attention_mask, allow_is_causal_skip=False, device=device,
    )  # fmt: skip
    return mask


def _traced_segments(mask_function: Callable, batch: int, seqlen: int, device: torch.device) -> Tensor:
    """(batch, seqlen): a segment starts where a token does not see the one before it.

    Raises at run time where a token sees the one behind it: that is no causal mask of packed texts.
    """
    at = torch.arange(seqlen, device=device)[None]
    rows, head = torch.arange(batch, device=device)[:, None], at.new_zeros(1, 1)
    sees = mask_function(rows, head, at[:, 1:], at[:, :-1]).expand(batch, seqlen - 1)
    ahead = mask_function(rows, head, at[:, :-1], at[:, 1:])
    text = "attn_implementation='lckernels': a mask that sees ahead cannot be compiled; run it uncompiled"
    torch._assert_async(~ahead.any(), text)
    return F.pad(~sees, (1, 0)).cumsum(-1)


def make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = causal_mask_function,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor:
    """transformers' mask function: a KeyMask; for a mask that is not known the dense one, and a warning.

    Arguments as transformers' AttentionMaskInterface gives them; attention_mask (batch, any length) bool.
    """
    arguments = (
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        mask_function,
        attention_mask,
        use_vmap,
    )
    mask = key_mask(*arguments, device, **options)
    if mask is not None:
        return mask
    say_once(f"{mask_kind(mask_function, options)} is not known to it and runs as a dense mask")
    options = {**options, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return sdpa_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
        use_vmap=use_vmap, device=device, **options,
    )  # fmt: skip


def mask_kind(mask_function: Callable | None, options: dict[str, Any]) -> str:
    """What a model asked transformers' mask function for, in words."""
    name = getattr(mask_function, "__qualname__", "a function").partition(".")[0]
    size = options.get("local_size")
    return f"a mask of its own ({name})" if size is None else f"a mask of its own ({name}, local_size {size})"


def say_once(text: str) -> None:
    """Warns once a process; not while torch.compile traces."""
    if not torch.compiler.is_compiling():
        _say(text)


@cache
def _say(text: str) -> None:
    warnings.warn(f"attn_implementation='lckernels': {text}", stacklevel=4)
