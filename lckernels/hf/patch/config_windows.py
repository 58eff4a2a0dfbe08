"""The windows that the fields of a config name."""

from collections.abc import Callable

from transformers import PreTrainedConfig

from lckernels.hf.masks.kinds import FAR

SIZE, CHUNK = "sliding_window", "attention_chunk_size"
USE, FIRST_LAYER = "use_sliding_window", "max_window_layers"
# Fields with a window, and the number of keys that a token sees by it, itself included.
_KEYS: dict[str, Callable[[int], int]] = {
    SIZE: int,
    "sliding_window_size": int,
    "attention_window_size": int,
    "attention_window": int,
    "local_attention": int,
    "window_size": int,
    "local_radius": lambda radius: 2 * radius + 1,
    CHUNK: int,
}
WINDOW_FIELDS = tuple(_KEYS)
_TYPES = ("layer_types", "attention_layers")  # fields with the type of each layer
_LOCAL = ("sliding", "chunked", "local")  # parts of the names of types with a window


def window_fields(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Fields that are set to a window, and the numbers of keys that a token would see by them.

    window_size counts only beside the types of layers: in vision models it is a size in pixels or patches.
    """
    found = {}
    for name, keys in _KEYS.items():
        value = vars(config).get(name)
        if is_window(value) and (name != "window_size" or types_field(config)):
            found[name] = tuple(map(keys, value if isinstance(value, list | tuple) else [value]))
    return found


def is_window(value: object) -> bool:
    """Whether the value of a field is the size of a window, or one for each layer."""
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(type(x) is int and 0 < x < FAR for x in values)


def types_field(config: PreTrainedConfig) -> str:
    """The field that has the type of each layer; empty without one."""
    return next((name for name in _TYPES if isinstance(vars(config).get(name), list | tuple)), "")


def local_types(config: PreTrainedConfig) -> int:
    """How many layers have a type with a window."""
    return sum(map(_is_local, vars(config)[types_field(config)]))


def use_reason(config: PreTrainedConfig) -> str:
    """Which layers use_sliding_window slides, where the types of the layers follow max_window_layers."""
    first, types = vars(config).get(FIRST_LAYER), vars(config).get("layer_types")
    if not getattr(config, USE, False) or type(first) is not int or not isinstance(types, list | tuple):
        return ""
    if any(_is_local(name) != (i >= first) for i, name in enumerate(types)):
        return ""
    return f"{USE} slides only layers from {FIRST_LAYER} = {first} on; the model has {len(types)}"


def _is_local(layer_type: object) -> bool:
    return any(part in str(layer_type) for part in _LOCAL)
