"""Which calls of attention a model makes: its structure runs on the meta device, without arithmetic."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from lckernels.hf.calls import Dense, Served, classify
from lckernels.hf.family import families
from lckernels.hf.masks.create import describe, key_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.kinds import FULL, Kind
from lckernels.hf.patch.skeleton import META, outermost, own_config, padded_inputs, row_inputs, skeleton

_NAME = "lckernels_dry_run"


@dataclass(frozen=True)
class Call:
    """One call of attention.

    Attributes:
        layer: name of the module.
        kind: its kind of attention; None for dense attention and under a ChunkMask.
        dense: why it runs as dense attention; empty where lckernels runs it.
        shapes: of q, k and v in windowed_attention, for the tokens of the dry run.
    """

    layer: str
    kind: Kind | None
    dense: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DryRun:
    """The calls of a dry run.

    Attributes:
        calls: in their order.
        error: what stopped the run; empty if nothing did.
        unsupported: whether a call that lckernels does not support stopped it.
    """

    calls: tuple[Call, ...]
    error: str = ""
    unsupported: bool = False

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
    """The calls of one dry run, while it runs."""

    calls: list[Call] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # of the skeleton's modules, by id
    dense_masks: dict[int, tuple[str, Tensor]] = field(default_factory=dict)  # description and mask, by id


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
    """The config's own fields; a config in it is also the config of a module in the model."""
    return str({name: x for name, x in config.__dict__.items() if not isinstance(x, PreTrainedConfig)})


class _BoolsAreTrue(TorchDispatchMode):
    """A read of one bool returns True: the mask is all valid, the positions are of one sequence."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


def _run(model: nn.Module, seqlen: int) -> DryRun:
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _create_mask)
    record = _Record()
    token = _record.set(record)
    try:
        with torch.no_grad(), META:
            prefix, main = outermost(model)
            copied = skeleton(main, _NAME)
            record.names = {id(module): name for name, module in copied.named_modules(prefix=prefix)}
            with _BoolsAreTrue():
                inputs = row_inputs(seqlen) if seqlen else padded_inputs(copied)
                copied(**inputs, output_hidden_states=False, return_dict=True)
    except NotServed as error:
        return DryRun(tuple(record.calls), str(error).removeprefix("model: "), unsupported=True)
    except Exception as error:  # whatever stops the model is the result
        message = str(error).strip().partition("\n")[0]
        return DryRun(tuple(record.calls), f"{type(error).__name__}: {message}")
    finally:
        _record.reset(token)
    return DryRun(tuple(record.calls))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Records how the call would run; returns an output of the right shape."""
    record = _record.get()
    call = classify(module, query, key, attention_mask, options, any_length=True)
    dense = call.reason if isinstance(call, Dense) else ""
    if dense and id(attention_mask) in record.dense_masks:
        dense = f"it uses {record.dense_masks[id(attention_mask)][0]}"
    shapes = tuple(tuple(x.transpose(1, 2).shape) for x in (query, key, value))
    kind = call.kind if isinstance(call, Served) else None
    record.calls.append(Call(record.names.get(id(module), ""), kind, dense, shapes))
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
