"""What a model asks of its attention: its structure is run on the meta device, where nothing is computed."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig

from lckernels.hf.attention import check_call, is_biased
from lckernels.hf.mask import ChunkMask, KeyMask, NotServed, key_mask, mask_kind
from lckernels.hf.patch import lock

_NAME = "lckernels_dry_run"
_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
_META = torch.device("meta")


@dataclass(frozen=True)
class DryRun:
    """layers: for each call of attention why torch's dense attention runs it; empty where lckernels does.

    error: what stopped the run, empty if nothing did; refused: whether that was lckernels.
    """

    layers: tuple[str, ...]
    error: str = ""
    refused: bool = False

    @property
    def dense(self) -> tuple[str, ...]:
        """The reasons of the layers that lckernels does not run, each once."""
        return tuple(dict.fromkeys(filter(None, self.layers)))

    def reasons(self) -> list[str]:
        """Why lckernels' attention would run in no layer; empty where it runs in some, or nobody knows."""
        if self.refused:
            return [self.error]
        if not self.layers and not self.error:
            return ["no attention of it goes through transformers' attention interface"]
        served = not self.layers or "" in self.layers
        return [] if served else [f"{self.dense[0]}, which torch's dense attention runs"]


@dataclass
class _Record:
    layers: list[str] = field(default_factory=list)
    kinds: dict[int, tuple[str, Tensor]] = field(default_factory=dict)


_record: ContextVar[_Record] = ContextVar("_record")
# Per model the classes of its modules, and its two runs.
_known: WeakKeyDictionary[nn.Module, tuple[list[type], dict[int, DryRun]]] = WeakKeyDictionary()


def padded_run(model: nn.Module) -> DryRun:
    """A padded batch of two rows, as a LongEncoder gives it to the model; run once a model."""
    return _run_once(model, 0)


def whole_run(model: nn.Module, seqlen: int) -> DryRun:
    """A row of `seqlen` tokens under a ChunkMask, as merge="layer" gives it; run once a model."""
    return _run_once(model, seqlen)


def _run_once(model: nn.Module, seqlen: int) -> DryRun:
    classes = [type(module) for module in model.modules()]
    known, runs = _known.get(model, (None, {}))
    if known != classes:
        runs = {}
    if seqlen not in runs:
        runs[seqlen] = _run(model, seqlen)
        _known[model] = (classes, runs)
    return runs[seqlen]


def _run(model: nn.Module, seqlen: int) -> DryRun:
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _make_mask)
    record = _Record()
    token = _record.set(record)
    # Whatever stops the model is the answer here: it says why the model cannot be run so.
    try:
        with torch.no_grad(), _META:
            _skeleton(model)(**_inputs(seqlen), output_hidden_states=False, return_dict=True)
    except NotServed as refusal:
        return DryRun(tuple(record.layers), str(refusal).removeprefix("model: "), refused=True)
    except Exception as error:
        said = str(error).strip().partition("\n")[0]
        return DryRun(tuple(record.layers), f"{type(error).__name__}: {said}")
    finally:
        _record.reset(token)
    return DryRun(tuple(record.layers))


def _inputs(seqlen: int) -> dict[str, Tensor]:
    if not seqlen:
        ids = torch.zeros(2, 4, dtype=torch.long, device=_META)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ids = torch.zeros(1, seqlen, dtype=torch.long, device=_META)
    mask = ChunkMask.of_shape(1, 1, seqlen, seqlen, device=_META)
    return {"input_ids": ids, "position_ids": torch.zeros_like(ids), "attention_mask": mask}


def _skeleton(model: nn.Module) -> nn.Module:
    """The model without weights, hooks or methods of its own, in eval mode, on the functions below."""
    memo: dict[int, Any] = {}
    with lock:
        for tensor in chain(model.parameters(), model.buffers()):
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=_META)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if is_parameter else empty
        for module in model.modules():
            memo.update((id(module.__dict__[name]), OrderedDict()) for name in _HOOKS)
        skeleton = copy.deepcopy(model, memo).eval()
    for module in skeleton.modules():
        # A method of the instance is someone's wrapper, which may know the model itself.
        for name in [name for name in module.__dict__ if callable(getattr(type(module), name, None))]:
            del module.__dict__[name]
        if isinstance(module.__dict__.get("config"), PreTrainedConfig):
            module.config._attn_implementation = _NAME
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
    check_call(attention_mask, options)
    record.layers.append(_why_dense(attention_mask, options, record))
    batch, num_heads, seqlen, _ = query.shape
    return query.new_empty(batch, seqlen, num_heads, value.shape[3]), None


def _why_dense(mask: Tensor | None, options: dict[str, Any], record: _Record) -> str:
    if is_biased(options):
        return "it adds a relative position bias"
    if isinstance(mask, KeyMask | ChunkMask):
        return ""
    if mask is None:
        return "it brings no mask"
    kind, _ = record.kinds.get(id(mask), (None, None))
    return "it brings a dense mask of its own" if kind is None else f"it asks for {kind}"


def _make_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = None,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor:
    mask = key_mask(
        batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask, use_vmap, device
    )
    if mask is None:
        mask = torch.ones(batch_size, 1, q_length, kv_length, dtype=torch.bool, device=device)
        _record.get().kinds[id(mask)] = (mask_kind(mask_function, options), mask)
    return mask
