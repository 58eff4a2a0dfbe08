"""Which calls of attention a model makes: its structure runs on the meta device, without arithmetic."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from lckernels.hf.calls import Dense, Served, classify
from lckernels.hf.family import families, packs_sequences
from lckernels.hf.masks.create import describe, key_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.kinds import FULL, Kind
from lckernels.hf.patch.cross import has_other_keys
from lckernels.hf.patch.skeleton import (
    META,
    linear_layers,
    outermost,
    own_config,
    packed_linear_layers,
    padded_inputs,
    row_inputs,
    skeleton,
)
from lckernels.hf.settings import PLAIN, LayerSettings

_NAME = "lckernels_dry_run"
_PACKED = f"{_NAME}_flash"
_LABELS = ("id2label", "label2id")  # fields of a config that may be large and change no attention


@dataclass(frozen=True)
class Call:
    """One call of attention.

    Attributes:
        layer: name of the module.
        kind: its kind of attention; None for dense attention and under a ChunkMask.
        dense: why it runs as dense attention; empty where lckernels runs it.
        shapes: of q, k and v in windowed_attention, for the tokens of the dry run.
        sliding_window: the option of this name, which flash attention makes its window of; None without.
        has_bias: whether it has a relative position bias.
    """

    layer: str
    kind: Kind | None
    dense: str
    shapes: tuple[tuple[int, ...], ...]
    sliding_window: int | None = None
    has_bias: bool = False


@dataclass(frozen=True)
class DryRun:
    """The calls of a dry run.

    Attributes:
        calls: in their order.
        error: what stopped the run; empty if nothing did.
        unsupported: whether a call that lckernels does not support stopped it.
        parts: the calls of models in the model that the run did not enter, such as a vision tower, or of its
            layers; each ran on inputs of its own.
        part_errors: by the name of such a model, what stopped its run.
        finished: names of the modules that returned a result.
    """

    calls: tuple[Call, ...]
    error: str = ""
    unsupported: bool = False
    parts: tuple[Call, ...] = ()
    part_errors: Mapping[str, str] = field(default_factory=dict)
    finished: frozenset[str] = frozenset()

    @property
    def dense(self) -> tuple[str, ...]:
        """The reasons of the calls that run as dense attention, each once."""
        return tuple(dict.fromkeys(call.dense for call in self.calls if call.dense))

    @property
    def restricted(self) -> tuple[str, ...]:
        """The kinds of the layers in which a token does not see all others, each once."""
        kinds = (call.kind for call in self.calls if call.kind is not None)
        return tuple(dict.fromkeys(str(kind) for kind in kinds if kind.window != FULL or kind.chunk))

    @property
    def served(self) -> int:
        """The number of calls that lckernels runs."""
        return sum(not call.dense for call in self.calls)

    def reasons(self) -> list[str]:
        """Why lckernels would run no layer; empty if it would run some, or if the dry run failed."""
        if self.unsupported:
            return [self.error]
        if not self.calls and not self.error:
            return ["no attention of it goes through transformers' attention interface"]
        served = not self.calls or self.served
        return [] if served else [f"every attention layer runs as torch's dense attention: {self.dense[0]}"]


@dataclass
class _Record:
    """The calls of one dry run, while it runs; modules are those of the skeleton."""

    calls: list[Call] = field(default_factory=list)
    names: dict[nn.Module, str] = field(default_factory=dict)
    entered: set[nn.Module] = field(default_factory=set)
    finished: set[nn.Module] = field(default_factory=set)
    cross: set[nn.Module] = field(default_factory=set)  # whose present call is cross attention
    dense_masks: dict[int, tuple[str, Tensor]] = field(default_factory=dict)  # description and mask, by id

    def register_hooks(self, module: nn.Module) -> None:
        """Records the calls of a module."""
        module.register_forward_pre_hook(self._enter, with_kwargs=True)
        module.register_forward_hook(lambda module, args, output: self.finished.add(module))

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.entered.add(module)
        (self.cross.add if has_other_keys(module, args, kwargs) else self.cross.discard)(module)


_record: ContextVar[_Record] = ContextVar("_record")
# By model: what its runs depend on, and its runs by length of the row.
_cache: WeakKeyDictionary[nn.Module, tuple[tuple, dict[int, DryRun]]] = WeakKeyDictionary()


def padded_dry_run(model: nn.Module) -> DryRun:
    """The run of a padded batch of two rows; cached."""
    return _cached_run(model, 0)


def row_dry_run(model: nn.Module, seqlen: int) -> DryRun:
    """The run of one row of `seqlen` tokens under a ChunkMask, as with merge="layer"; cached."""
    return _cached_run(model, seqlen)


def _cached_run(model: nn.Module, seqlen: int) -> DryRun:
    classes = tuple(type(module) for module in model.modules())
    configs = {id(config): config for config in map(own_config, model.modules()) if config is not None}
    key = (classes, tuple(map(_fields, configs.values())), families())
    known, runs = _cache.get(model, (None, {}))
    if known != key:
        runs = {}
    if seqlen not in runs:
        runs[seqlen] = _run(model, seqlen)
        _cache[model] = (key, runs)
    return runs[seqlen]


def _fields(config: PreTrainedConfig) -> str:
    """The config's own fields, without tables of labels; a config in it is also that of a module."""
    fields = {name: x for name, x in config.__dict__.items() if not isinstance(x, PreTrainedConfig)}
    return str({name: x for name, x in fields.items() if name not in _LABELS})


class _BoolsAreTrue(TorchDispatchMode):
    """A read of one bool returns True: the mask is all valid, the positions are of one sequence."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


def _run(model: nn.Module, seqlen: int) -> DryRun:
    """A run; if it stops, another one without the code of linear layers that are not torch's own."""
    packed = packed_linear_layers(model)
    run, linear = _attempt(model, seqlen, packed), linear_layers(model)
    if run.error and not run.unsupported and len(linear) > len(packed):
        other = _attempt(model, seqlen, linear)
        if other.unsupported or not other.error or len(other.calls) > len(run.calls):
            return other
    return run


def _attempt(model: nn.Module, seqlen: int, shapes_only: list[nn.Module]) -> DryRun:
    """A run in which the modules of `shapes_only` return the shape of their result alone."""
    for name in (_NAME, _PACKED):
        AttentionInterface.register(name, _attention)
        AttentionMaskInterface.register(name, _create_mask)
    record = _Record()
    token = _record.set(record)
    error, unsupported, parts, part_errors = "", False, (), {}
    try:
        with torch.no_grad(), META, _BoolsAreTrue():
            prefix, main = outermost(model)
            copied = skeleton(main, _NAME, _PACKED, shapes_only)
            record.names = {module: name for name, module in copied.named_modules(prefix=prefix)}
            for module in record.names:
                record.register_hooks(module)
            error, unsupported = _forward(copied, row_inputs(seqlen) if seqlen else None)
            calls = tuple(record.calls)
            if not seqlen and not unsupported:
                parts, part_errors = _run_parts(record)
    except Exception as failure:  # a model that cannot be copied
        calls, error = (), _message(failure)
    finally:
        _record.reset(token)
    finished = frozenset(record.names[module] for module in record.finished)
    return DryRun(calls, error, unsupported, parts, part_errors, finished)


def _forward(model: nn.Module, inputs: dict[str, Tensor] | None = None) -> tuple[str, bool]:
    """What stops a forward, empty if nothing does; whether that is an unsupported call."""
    try:
        inputs = padded_inputs(model) if inputs is None else inputs
        model(**inputs, output_hidden_states=False, return_dict=True)
    except NotServed as error:
        return str(error).removeprefix("model: "), True
    except Exception as error:  # whatever stops the model is the result
        return _message(error), False
    return "", False


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _run_parts(record: _Record) -> tuple[tuple[Call, ...], dict[str, str]]:
    """Runs each model in the model that no run has entered, outer ones first; their calls and errors.

    Then the layers that pack sequences, whose model may read the sizes of its images.
    """
    begin, errors = len(record.calls), {}
    for module, name in record.names.items():
        if module in record.entered:
            continue
        if isinstance(module, PreTrainedModel):
            error, _ = _forward(module)
            if error:
                errors[name] = error
        elif packs_sequences(type(module)):
            _forward(module)
    return tuple(record.calls[begin:]), errors


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Records how the call would run; returns an output of the right shape."""
    record = _record.get()
    settings = LayerSettings(cross=True) if module in record.cross else PLAIN
    call = classify(module, query, key, attention_mask, options, settings, any_length=True)
    dense = call.reason if isinstance(call, Dense) else ""
    if dense and id(attention_mask) in record.dense_masks:
        dense = f"it uses {record.dense_masks[id(attention_mask)][0]}"
    shapes = tuple(tuple(x.transpose(1, 2).shape) for x in (query, key, value))
    kind = call.kind if isinstance(call, Served) else None
    if kind is not None and options.get("global_tokens"):
        kind = replace(kind, global_tokens=True)
    size = options.get("sliding_window")
    size = size if type(size) is int else None
    biased = options.get("position_bias") is not None
    record.calls.append(Call(record.names.get(module, ""), kind, dense, shapes, size, biased))
    batch, num_heads, seqlen, _ = query.shape
    return query.new_empty(batch, seqlen, num_heads, value.shape[3]), None


def _create_mask(*args: Any, **options: Any) -> Tensor:
    """A KeyMask, or a dense mask whose description is recorded."""
    mask = key_mask(*args, **options)
    if mask is None:
        sizes = (options["batch_size"], 1, options["q_length"], options["kv_length"])
        mask = torch.ones(sizes, dtype=torch.bool, device=options.get("device", "cpu"))
        description = describe(options.get("mask_function"), options)
        _record.get().dense_masks[id(mask)] = (description, mask)
    return mask
