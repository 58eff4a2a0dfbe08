"""Where the config of a model has another window than the config.json that it was made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig

from lckernels.hf.patch.config_windows import USE, WINDOW_FIELDS, is_window


def stored_notes(stored: Mapping[str, Any], config: PreTrainedConfig, notes: Sequence[str] = ()) -> list[str]:
    """A sentence for each window that is in one of the two alone, or of another size there.

    Args:
        stored: the content of config.json.
        config: the config made of it.
        notes: what is known already, from `config_notes`.
    """
    return [note for path, note in _notes(stored, config, "config") if not _is_known(path, notes)]


def _is_known(path: str, notes: Sequence[str]) -> bool:
    return any(note.startswith(f"{path} ") for note in notes)


def _notes(stored: Mapping[str, Any], config: PreTrainedConfig, path: str) -> Iterator[tuple[str, str]]:
    for field in WINDOW_FIELDS:
        had, has = stored.get(field), vars(config).get(field)
        if had == has or not (is_window(had) or is_window(has)):
            continue
        if field in stored:
            why = f": {USE} is False" if not has and vars(config).get(USE) is False else ""
            yield f"{path}.{field}", f"{path}.{field} is {has}, config.json has {had}{why}"
        elif path == "config" and field in getattr(type(config), "__dataclass_fields__", ()):
            default = f"the default of {type(config).__name__}"
            yield f"{path}.{field}", f"{path}.{field} is {has}, {default}; config.json has none"
    for name, part in vars(config).items():
        if isinstance(part, PreTrainedConfig) and isinstance(stored.get(name), Mapping):
            yield from _notes(stored[name], part, f"{path}.{name}")
