"""Mask functions of transformers, read from their closures."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lckernels.hf.masks.kinds import CAUSAL, FAR, bounded
from lckernels.hf.masks.patterns import Pattern, two_sided, window_before

MASKING_UTILS = "transformers.masking_utils"
AND = "and_masks.<locals>.and_mask"
Closure = dict[str, Any]  # values of a function's nonlocal variables, by name
Reader = Callable[[Closure], Pattern | None]


def _intersection(closure: Closure) -> Pattern | None:
    parts = [read_pattern(function) for function in closure["mask_functions"]]
    if not parts or any(part is None for part in parts):
        return None
    if sum(bool(part.chunk) for part in parts) > 1 or sum(part.segment_ids is not None for part in parts) > 1:
        return None
    result = parts[0]
    for part in parts[1:]:
        result = result & part
    return result


def _union(closure: Closure) -> Pattern | None:
    """The window that contains all windows, where each contains the query's own position."""
    parts = [read_pattern(function) for function in closure["mask_functions"]]
    if any(part is None or part.chunk or part.segment_ids is not None for part in parts):
        return None
    if any(part.positions is not None for part in parts):
        return None
    sides = zip(*(part.window for part in parts), strict=True)
    return Pattern(tuple(-1 if -1 in side else max(side) for side in sides))


def _remapped(closure: Closure) -> Pattern | None:
    inner = read_pattern(closure["mask_function"])
    return None if inner is None else replace(inner, positions=closure["position_ids"])


# By (module or the last parts of its name, qualified name) of a mask function.
_READERS: dict[tuple[str, str], Reader] = {
    (MASKING_UTILS, AND): _intersection,
    (MASKING_UTILS, "or_masks.<locals>.or_mask"): _union,
    (MASKING_UTILS, "causal_mask_function"): lambda closure: Pattern(CAUSAL),
    (MASKING_UTILS, "bidirectional_mask_function"): lambda closure: Pattern(),
    (MASKING_UTILS, "sliding_window_overlay.<locals>.inner_mask"): lambda closure: window_before(
        closure["sliding_window"]
    ),
    (MASKING_UTILS, "sliding_window_bidirectional_overlay.<locals>.inner_mask"): lambda closure: two_sided(
        *(closure["sliding_window"] + 1,) * 2
    ),
    (MASKING_UTILS, "chunked_overlay.<locals>.inner_mask"): lambda closure: Pattern(
        chunk=closure["chunk_size"], chunk_origin=closure["left_padding"]
    ),
    (MASKING_UTILS, "packed_sequence_mask_function.<locals>.inner_mask"): lambda closure: Pattern(
        segment_ids=closure["packed_sequence_mask"]
    ),
    (MASKING_UTILS, "remap_positions_for_packed_sequence.<locals>.inner_mask"): _remapped,
}


def add_readers(readers: Mapping[tuple[str, str], Reader]) -> None:
    """Adds readers, by module and qualified name of the mask function.

    The module is its full name or the last parts of it: "modeling_toy" is any module of that name.
    """
    _READERS.update(readers)


def remove_readers(readers: Mapping[tuple[str, str], Reader]) -> None:
    """Removes readers that `add_readers` added."""
    for key in readers:
        _READERS.pop(key, None)


def _find_reader(mask_function: Callable) -> Reader | None:
    """The reader with the longest module name that fits."""
    module = getattr(mask_function, "__module__", None) or ""
    name = getattr(mask_function, "__qualname__", "")
    while module:
        if reader := _READERS.get((module, name)):
            return reader
        module = module.partition(".")[2]
    return None


def read_pattern(mask_function: Callable) -> Pattern | None:
    """What a mask function describes; None for an unsupported function or closure."""
    reader = _find_reader(mask_function)
    if reader is None:
        return None
    try:
        pattern = reader(dict(inspect.getclosurevars(mask_function).nonlocals))
    except (KeyError, TypeError):  # another version of transformers, with other variables
        return None
    fits = pattern is not None and all(isinstance(x, int) for x in (*pattern.window, pattern.chunk))
    if not fits or min(pattern.window) < -1:
        return None
    return replace(pattern, window=bounded(pattern.window), chunk=pattern.chunk if pattern.chunk < FAR else 0)
