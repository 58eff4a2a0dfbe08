"""Where a field of a model's config has another effect than its name, as the model's dry run shows."""

from collections.abc import Iterator, Sequence

from torch import nn
from transformers import DynamicCache, PreTrainedConfig

from lckernels.flops import format_count
from lckernels.hf.patch.config_layers import ConfigLayers, layers_by_config
from lckernels.hf.patch.config_windows import (
    CHUNK,
    FIRST_LAYER,
    SIZE,
    USE,
    local_types,
    types_field,
    use_reason,
    window_fields,
)  # fmt: skip
from lckernels.hf.patch.dry_run import Call, DryRun
from lckernels.rope_types import DYNAMIC, LONGROPE, rope_types

_ROPE = {
    DYNAMIC: "keeps the frequencies of the longest sequence so far: beyond the model's positions a state "
    "depends on the other rows and on earlier calls",
    LONGROPE: "takes the factors of all rows from the largest position: the states of a short row depend on "
    "the length of the others",
}


def config_notes(model: nn.Module, run: DryRun) -> tuple[str, ...]:
    """The fields of a model's configs with another effect than their names, a sentence for each.

    Args:
        model: a transformers model, or a module that contains one.
        run: its dry run.
    """
    found = list(layers_by_config(model, run))
    notes = [note for layers in found for note in _notes(layers, found)]
    for _, _, name in rope_types(model):
        notes += [f"rope_type {name!r} {text}" for part, text in _ROPE.items() if part in name]
    return tuple(dict.fromkeys(notes))


def _notes(layers: ConfigLayers, others: Sequence[ConfigLayers]) -> Iterator[str]:
    found = dict(_by_field(layers, others))
    flash = _flash_window(layers)
    if flash and SIZE not in found and layers.windowed:
        found[SIZE] = layers.note(SIZE, f" and {_keys(layers.windowed[0])}", flash)
    yield from found.values()
    yield from (layers.note(field) for field in layers.reasons if field not in found)


def _by_field(layers: ConfigLayers, others: Sequence[ConfigLayers]) -> Iterator[tuple[str, str]]:
    """The fields that disagree with the layers of the dry run, and their notes."""
    fields = window_fields(layers.config)
    for field, keys in fields.items():
        if layers.windowed:
            note = _other_width(layers, field, keys) or _hides_nothing(layers, field)
        elif not layers.complete or any(
            other.windowed and window_fields(other.config).get(field) == keys for other in others
        ):
            note = ""  # of an encoder and its decoder, whose configs have the same fields
        else:
            note = layers.note(field, " and no layer has a window", *_other_windows(layers, field))
        if note:
            yield field, note
    if layers.complete and (layers.windowed or not fields):
        yield from _by_layers(layers)


def _by_layers(layers: ConfigLayers) -> Iterator[tuple[str, str]]:
    """The fields that name layers, where others have a window, and their notes."""
    config, some, count = layers.config, len(layers.windowed), len(layers.calls)
    types, use = types_field(config), getattr(config, USE, None)
    have = f"{some} of {format_count(count, 'layer')} {'has' if some == 1 else 'have'} a window"
    if types and local_types(config) != some:
        yield types, f"{layers.path}.{types} names {local_types(config) or 'no'} layers with a window; {have}"
    if isinstance(use, bool) and (0 < some < count if use else some):
        yield USE, layers.note(USE, f" and {have}", use_reason(config))
    if use and not types and vars(config).get(FIRST_LAYER) and some == count:
        yield FIRST_LAYER, layers.note(FIRST_LAYER, f" and {have}")


def _other_windows(layers: ConfigLayers, field: str) -> Iterator[str]:
    """Why no layer has a window, and where else there is one."""
    config = layers.config
    types, why = types_field(config), use_reason(config)
    if why:
        yield why
    elif types and field not in layers.reasons:
        yield f"{types} names {local_types(config) or 'no'} layers with one"
    if _cache_slides(config):
        yield "its cache alone drops older keys, so that a step of generation sees fewer than a forward"
    sizes = {call.sliding_window for call in layers.calls} - {None}
    if sizes:
        yield f"flash attention, which gets it as an option, would have one of {max(sizes)} keys"


def _cache_slides(config: PreTrainedConfig) -> bool:
    try:
        return any(DynamicCache(config=config).is_sliding)
    except AttributeError:  # the config of a model without a cache has no num_hidden_layers
        return False


def _other_width(layers: ConfigLayers, field: str, keys: tuple[int, ...]) -> str:
    """A note on windows of another width than the field's; a token itself may be counted or not."""
    bounded = [call for call in layers.windowed if call.kind.chunk or min(call.kind.window) >= 0]
    if not bounded or any(_is_near(call, field, keys) for call in bounded):
        return ""
    stored = layers.config.to_dict().get(field)
    halved = "" if stored == vars(layers.config).get(field) else f"it is stored as {stored}"
    return layers.note(field, f" and {_keys(bounded[0])}", halved, _flash_window(layers))


def _is_near(call: Call, field: str, keys: tuple[int, ...]) -> bool:
    if field == CHUNK or call.kind.chunk:
        return call.kind.chunk in keys
    return any(abs(sum(call.kind.window) + 1 - number) <= 1 for number in keys)


def _keys(call: Call) -> str:
    """The keys that a layer with a window sees."""
    left, right = call.kind.window
    if call.kind.chunk:
        return f"a token sees a chunk of {call.kind.chunk} keys"
    sides = f"{left} before it and {right} after it" if right else f"{left} before it"
    return f"a token sees {left + right + 1} keys, itself and {sides}"


def _hides_nothing(layers: ConfigLayers, field: str) -> str:
    """A note on windows that contain every position of the model."""
    positions = getattr(layers.config, "max_position_embeddings", None)
    if type(positions) is not int or positions < 1:
        return ""
    for call in layers.windowed:
        left, right = (call.kind.chunk - 1, 0) if call.kind.chunk else call.kind.window
        if any(0 <= side < positions - 1 for side in ((left, right) if right else (left,))):
            return ""
    return layers.note(field, f" and hides no key: max_position_embeddings is {positions}")


def _flash_window(layers: ConfigLayers) -> str:
    """How a window differs under flash attention, which makes its own of an option; empty if it does not."""
    for call in layers.windowed:
        size = call.sliding_window
        if size is not None and not call.kind.chunk and any(x not in (0, size - 1) for x in call.kind.window):
            return f"under flash attention it sees {size - 1} on either side"
    return ""
