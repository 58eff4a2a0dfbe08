"""The attention layers of each config in a model, as its dry run shows them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedConfig

from lckernels.hf.family import config_notes
from lckernels.hf.masks.kinds import CAUSAL, FULL
from lckernels.hf.patch.attention_modules import attention_modules, is_reached
from lckernels.hf.patch.dry_run import Call, DryRun
from lckernels.hf.patch.skeleton import own_config

_LONGEST = 60  # characters of a value


@dataclass(frozen=True)
class ConfigLayers:
    """The attention layers of one config.

    Attributes:
        path: of the config, such as config.text_config.
        config: the config.
        reasons: by field, its effect, from the family of the model.
        calls: one of each layer, without cross attention and dense attention.
        complete: whether these are all of its layers.
    """

    path: str
    config: PreTrainedConfig
    reasons: Mapping[str, str]
    calls: tuple[Call, ...]
    complete: bool

    @property
    def windowed(self) -> list[Call]:
        """The layers in which a token does not see all tokens, or all before it."""
        return [call for call in self.calls if call.kind.window not in (FULL, CAUSAL) or call.kind.chunk]

    def note(self, field: str, text: str = "", *reasons: str) -> str:
        """A note about a field, with the text of the family."""
        value = str(vars(self.config).get(field))
        value = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
        why = "; ".join(filter(None, (self.reasons.get(field, ""), *reasons)))
        return f"{self.path}.{field} is {value}{text}{f': {why}' if why else ''}"


def layers_by_config(model: nn.Module, run: DryRun) -> Iterator[ConfigLayers]:
    """The layers of each config: a layer belongs to the config of the nearest module that has one."""
    modules = dict(model.named_modules(remove_duplicate=False))
    owners = {name: own_config(module) for name, module in modules.items()}
    calls: dict[int, dict[str, Call]] = {}
    for call in (*run.calls, *run.parts):
        if call.kind is not None and not call.kind.cross:
            calls.setdefault(id(_nearest(owners, call.layer)), {}).setdefault(call.layer, call)
    dense = [call.layer for call in (*run.calls, *run.parts) if call.kind is None]
    reached = {call.layer for call in (*run.calls, *run.parts)}
    left = [*dense, *(name for name in attention_modules(model) if not is_reached(name, reached))]
    incomplete = {id(_nearest(owners, name)) for name in left}
    reasons: dict[int, dict[str, str]] = {}
    for name, config in owners.items():
        if config is not None:
            reasons.setdefault(id(config), {}).update(config_notes(modules[name], config))
    paths: dict[int, str] = {}
    for name, config in owners.items():
        for path, part in _parts(config, f"{name}.config" if paths else "config"):
            paths.setdefault(id(part), path)
    configs = {id(config): config for config in owners.values() if config is not None}
    for key, config in configs.items():
        complete = not run.error and key in calls and key not in incomplete
        yield ConfigLayers(paths[key], config, reasons[key], tuple(calls.get(key, {}).values()), complete)


def _nearest(owners: Mapping[str, PreTrainedConfig | None], name: str) -> PreTrainedConfig | None:
    while owners.get(name) is None and name:
        name = name.rpartition(".")[0]
    return owners.get(name)


def _parts(config: PreTrainedConfig | None, path: str) -> Iterator[tuple[str, PreTrainedConfig]]:
    """A config and those in it, with their paths."""
    if config is None:
        return
    yield path, config
    for name, part in vars(config).items():
        if isinstance(part, PreTrainedConfig):
            yield from _parts(part, f"{path}.{name}")
