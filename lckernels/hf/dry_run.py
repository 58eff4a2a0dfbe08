"""What a model asks of its attention: its structure is run on the meta device, where nothing is computed."""

import copy
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from lckernels.hf.attention import check_call, why_dense
from lckernels.hf.changes import lock
from lckernels.hf.dense import is_causal
from lckernels.hf.mask import FULL, ChunkMask, KeyMask, NotServed
from lckernels.hf.mask_function import key_mask, mask_kind
from lckernels.hf.settings import Kind, kind_of_mask, kind_without_mask

_NAME = "lckernels_dry_run"
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_hf_hook",  # the last is accelerate's, with weights on no device
)  # fmt: skip
_META = torch.device("meta")


@dataclass(frozen=True)
class Call:
    """One call of attention. layer: the module's name; kind: which keys it sees, None if that is not known.

    dense: why it runs as dense attention; empty where a kernel of lckernels runs it.
    shapes: of q, k and v as windowed_attention has them, for the tokens of the dry run.
    """

    layer: str
    kind: Kind | None
    dense: str
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DryRun:
    """calls: of attention, in their order.

    error: what stopped the run, empty if nothing did; refused: whether that was lckernels.
    """

    calls: tuple[Call, ...]
    error: str = ""
    refused: bool = False

    @property
    def dense(self) -> tuple[str, ...]:
        """The reasons of the layers that lckernels does not run, each once."""
        return tuple(dict.fromkeys(call.dense for call in self.calls if call.dense))

    @property
    def narrow(self) -> tuple[str, ...]:
        """The kinds of the layers in which a token does not see all the others, each once."""
        kinds = (call.kind for call in self.calls if call.kind is not None)
        return tuple(dict.fromkeys(str(kind) for kind in kinds if kind.window != FULL or kind.chunk))

    @property
    def served(self) -> int:
        """How many calls lckernels runs."""
        return sum(not call.dense for call in self.calls)

    def reasons(self) -> list[str]:
        """Why lckernels' attention would run in no layer; empty where it runs in some, or nobody knows."""
        if self.refused:
            return [self.error]
        if not self.calls and not self.error:
            return ["no attention of it goes through transformers' attention interface"]
        served = not self.calls or self.served
        return [] if served else [f"{self.dense[0]}, which torch's dense attention runs"]


@dataclass
class _Record:
    calls: list[Call] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # of the skeleton's modules, by id
    kinds: dict[int, tuple[str, Tensor]] = field(default_factory=dict)


_record: ContextVar[_Record] = ContextVar("_record")
# Per model what its runs depend on, and its two runs.
_known: WeakKeyDictionary[nn.Module, tuple[tuple, dict[int, DryRun]]] = WeakKeyDictionary()


def padded_run(model: nn.Module) -> DryRun:
    """A padded batch of two rows, as a LongEncoder gives it to the model; run once a model."""
    return _run_once(model, 0)


def whole_run(model: nn.Module, seqlen: int) -> DryRun:
    """A row of `seqlen` tokens under a ChunkMask, as merge="layer" gives it; run once a model."""
    return _run_once(model, seqlen)


def _run_once(model: nn.Module, seqlen: int) -> DryRun:
    classes = tuple(type(module) for module in model.modules())
    configs = {id(config): config for config in map(_config, model.modules()) if config is not None}
    now = (classes, tuple(map(_fields, configs.values())))
    known, runs = _known.get(model, (None, {}))
    if known != now:
        runs = {}
    if seqlen not in runs:
        runs[seqlen] = _run(model, seqlen)
        _known[model] = (now, runs)
    return runs[seqlen]


def _config(module: nn.Module) -> PreTrainedConfig | None:
    """The config that the module itself holds."""
    config = module.__dict__.get("config")
    return config if isinstance(config, PreTrainedConfig) else None


def _fields(config: PreTrainedConfig) -> str:
    """Its own fields; a config in it is the config of a module in the model."""
    return str({name: x for name, x in config.__dict__.items() if not isinstance(x, PreTrainedConfig)})


def _outermost(model: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the model of transformers in a wrapper that holds just one; else of the whole."""
    inside = [(name, m) for name, m in model.named_modules() if isinstance(m, PreTrainedModel)]
    held = sum(isinstance(m, PreTrainedModel) for m in inside[0][1].modules()) if inside else 0
    return inside[0] if held and held == len(inside) else ("", model)


class _Yes(TorchDispatchMode):
    """Models ask whether all of a mask is valid, or all positions of one text; here they are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


def _run(model: nn.Module, seqlen: int) -> DryRun:
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _make_mask)
    record = _Record()
    token = _record.set(record)
    # Whatever stops the model is the answer here: it says why the model cannot be run so.
    try:
        with torch.no_grad(), _META:
            prefix, main = _outermost(model)
            skeleton = _skeleton(main)
            record.names = {id(module): name for name, module in skeleton.named_modules(prefix=prefix)}
            with _Yes():
                skeleton(**_inputs(skeleton, seqlen), output_hidden_states=False, return_dict=True)
    except NotServed as refusal:
        return DryRun(tuple(record.calls), str(refusal).removeprefix("model: "), refused=True)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        return DryRun(tuple(record.calls), f"{type(error).__name__}: {said}")
    finally:
        _record.reset(token)
    return DryRun(tuple(record.calls))


def _inputs(model: nn.Module, seqlen: int) -> dict[str, Tensor]:
    if seqlen:
        ids = torch.zeros(1, seqlen, dtype=torch.long, device=_META)
        mask = ChunkMask.of_shape(1, 1, seqlen, seqlen, device=_META)
        return {"input_ids": ids, "position_ids": torch.zeros_like(ids), "attention_mask": mask}
    main = next((m for m in model.modules() if isinstance(m, PreTrainedModel)), model)
    config, name = getattr(main, "config", None), getattr(main, "main_input_name", "input_ids")
    inputs = {name: _main_input(name, config)}
    if name == "input_ids":
        inputs["attention_mask"] = torch.ones_like(inputs[name])
    if getattr(config, "is_encoder_decoder", False):
        # Another length than the encoder's tells cross attention.
        inputs["decoder_input_ids"] = torch.zeros(2, 3, dtype=torch.long, device=_META)
    return inputs


def _main_input(name: str, config: Any) -> Tensor:
    """Two texts of four tokens, or two pictures, spectrograms or sounds of the smallest size that fits."""
    if name == "pixel_values":
        size = getattr(config, "image_size", 32)
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
        return torch.zeros(2, getattr(config, "num_channels", 3), *size, device=_META)
    if name == "input_features":
        frames = 2 * getattr(config, "max_source_positions", 50)
        return torch.zeros(2, getattr(config, "num_mel_bins", 80), frames, device=_META)
    if name == "input_values":
        channels = (getattr(config, "audio_channels", None),)
        return torch.zeros(2, *(n for n in channels if n is not None), 6400, device=_META)
    return torch.zeros(2, 4, dtype=torch.long, device=_META)


def _skeleton(model: nn.Module) -> nn.Module:
    """The model without weights, hooks or methods of its own, in eval mode, on the functions below."""
    memo: dict[int, Any] = {}
    with lock:
        for tensor in chain(model.parameters(), model.buffers()):
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=_META)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
        for module in model.modules():
            own = module.__dict__
            memo.update((id(own[name]), OrderedDict()) for name in _HOOKS if own.get(name) is not None)
            # States that a module keeps from call to call.
            kept = (x for x in own.values() if isinstance(x, Tensor))
            memo.update((id(x), torch.empty(x.shape, dtype=x.dtype, device=_META)) for x in kept)
        skeleton = copy.deepcopy(model, memo).eval()
    for module in skeleton.modules():
        # A method of the instance is someone's wrapper, which may know the model itself.
        for name in [name for name in module.__dict__ if callable(getattr(type(module), name, None))]:
            del module.__dict__[name]
        if _config(module) is not None:
            module.config._attn_implementation = _NAME
            # The other ways to run experts read the numbers that route to them.
            module.config._experts_implementation = "batched_mm"
    return skeleton


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
    """The shape of what attention gives; how it would be run goes on record."""
    record = _record.get()
    check_call(query, key, attention_mask, options)
    # DeepSeek-V4's adds keys to its mask, but only where there are more tokens than here.
    if getattr(module, "compressor", None) is not None:
        raise NotServed("model: it adds compressed keys to its attention mask itself")
    dense = why_dense(query, key, attention_mask, options)
    if attention_mask is not None and id(attention_mask) in record.kinds:
        dense = f"it asks for {record.kinds[id(attention_mask)][0]}"
    shapes = tuple(tuple(x.transpose(1, 2).shape) for x in (query, key, value))
    kind = None if dense else _kind(module, attention_mask, shapes, options)
    record.calls.append(Call(record.names.get(id(module), ""), kind, dense, shapes))
    batch, num_heads, seqlen, _ = query.shape
    return query.new_empty(batch, seqlen, num_heads, value.shape[3]), None


def _kind(
    module: nn.Module, mask: Tensor | None, shapes: tuple[tuple[int, ...], ...], options: dict[str, Any]
) -> Kind | None:
    if isinstance(mask, KeyMask):
        return kind_of_mask(mask)
    if mask is None:
        return kind_without_mask(is_causal(module, options), shapes[0][1], shapes[1][1])
    return None


def _make_mask(*args: Any, **options: Any) -> Tensor:
    """A KeyMask, or a dense one whose kind goes on record."""
    mask = key_mask(*args, **options)
    if mask is None:
        sizes = (options["batch_size"], 1, options["q_length"], options["kv_length"])
        mask = torch.ones(sizes, dtype=torch.bool, device=options.get("device", "cpu"))
        _record.get().kinds[id(mask)] = (mask_kind(options.get("mask_function"), options), mask)
    return mask
