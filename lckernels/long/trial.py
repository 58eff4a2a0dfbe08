"""A trial run: a few short rows show how a model's states depend on padding, other rows and later tokens."""

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.checks import bad
from lckernels.long.chunking import Rows
from lckernels.long.direction import check_direction
from lckernels.long.short_rows import RunError, ShortRows, are_numbers
from lckernels.module_copy import copy_without_hooks
from lckernels.prompts import not_read, num_prefix_keys

_SMALL = 2**28  # parameters up to which a model of half precision is tried in fp32
_KEPT = 2**18  # elements up to which a buffer is copied; a larger one is a weight
_lock = RLock()  # held while a model itself is in eval mode


@dataclass(frozen=True)
class Trial:
    """What a trial run found.

    Attributes:
        rows: which chunks a micro-batch may hold, so that each has the states it has alone.
        reason: why not any, as the end of a sentence about the model; empty for Rows.ANY.
        sees_later: whether a token's state depends on later tokens; None if it was not tried or judged.
        row_tokens: the only length of a row that the model reads; None if it reads several.
    """

    rows: Rows
    reason: str = ""
    sees_later: bool | None = None
    row_tokens: int | None = None


def try_copy(model: nn.Module) -> Trial | None:
    """A trial run of a copy that shares the model's weights; the model and the random state do not change.

    Args:
        model: a model whose output has `last_hidden_state`.

    Returns:
        None for a model that a copy cannot represent: its weights are on the meta device, sharded,
        quantized, or placed by hooks, or its states are no numbers yet.

    Raises:
        TypeError: the model does not return one state per token.
    """
    copied = trial_copy(model)
    return None if copied is None else _try(copied, next(copied.parameters()).device)


def trial_copy(model: nn.Module, whole_configs: bool = False) -> nn.Module | None:
    """A copy in eval mode that shares the model's weights, without hooks; None as of `try_copy`.

    Args:
        model: the model.
        whole_configs: also copies the configs in its configs, so that fields may be set in all.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    parameter = next(model.parameters(), None)
    if parameter is None or not _is_plain(model):
        return None
    try:
        configs = {} if whole_configs else _own_configs(model)
        return copy_without_hooks(model, _shared(model, parameter.dtype), configs)
    except Exception:  # a module that cannot be copied, whatever the reason
        return None


def try_in_place(
    model: nn.Module, device: torch.device, call: Callable[..., Any] | None = None
) -> Trial | None:
    """A trial run of the model itself, with its hooks, temporarily in eval mode; else as `try_copy`.

    Args:
        model: the model.
        device: of the rows.
        call: what runs the model. Default: the model.

    Returns:
        None for weights or rows without values: on the meta device, or under FakeTensorMode.
    """
    with eval_mode(model):
        return _try(model, device, call, in_place=True)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model itself in eval mode, for one thread at a time."""
    with _lock:
        modes = [(module, module.training) for module in model.modules()]
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training


def try_at_call(model: nn.Module, device: torch.device, call: Callable[..., Any]) -> Trial | None:
    """A trial run at the first call, of a model for which `try_copy` returned None; arguments as there.

    Raises:
        TypeError: the model does not return one state per token, or is causal.
    """
    trial = try_in_place(model, device, call)
    check_direction(model, trial and trial.sees_later)
    return trial


def check_row_length(model: nn.Module, trial: Trial | None, widths: list[int]) -> None:
    """Raises ValueError for chunks of another length than the only one that the model supports."""
    only = None if trial is None else trial.row_tokens
    other = next((width for width in widths if only not in (None, width)), None)
    if other is not None:
        name = type(model).__name__
        raise bad("input_ids", f"a chunk of {other} tokens", f"{name} supports rows of {only} tokens only")


def _is_plain(model: nn.Module) -> bool:
    """Whether all weights are plain tensors with values, and no hook or compiled module replaces them."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(x.is_meta or type(x) not in (Tensor, nn.Parameter) for x in tensors):
        return False
    names = {"_hf_hook", "_fsdp_wrapped_module", "_orig_mod"}  # of accelerate, FSDP1, torch.compile
    return not any(names & {*module.__dict__, *module._modules} for module in model.modules())


def _shared(model: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """What the copy has for a tensor: a weight itself, a small buffer's copy; of a small model in fp32."""
    size = sum(parameter.numel() for parameter in model.parameters())
    flash = "flash" in str(getattr(model.config, "_attn_implementation", None))
    widen = dtype in (torch.bfloat16, torch.float16) and size <= _SMALL and not flash

    def shared(tensor: Tensor) -> Tensor:
        is_parameter = isinstance(tensor, nn.Parameter)
        if widen and tensor.dtype == dtype:
            wide = tensor.detach().float()
            return nn.Parameter(wide, requires_grad=False) if is_parameter else wide
        return tensor if is_parameter or tensor.numel() > _KEPT else tensor.detach().clone()

    return shared


def _own_configs(model: nn.Module) -> dict[int, Any]:
    configs = (module.__dict__.get("config") for module in model.modules())
    return {id(config): copy.copy(config) for config in configs if config is not None}


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Without gradients and autocast; the states of the random generators are as before."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), numpy and numpy.random.get_state()
    on_gpu = device.type == "cuda"
    autocast = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    exact = torch.autocast(device.type, enabled=False) if autocast else nullcontext()
    try:
        with torch.random.fork_rng([device] if on_gpu else []), torch.no_grad(), exact:
            yield
    finally:
        random.setstate(states[0])
        if numpy:
            numpy.random.set_state(states[1])


def _check_prefix_keys(model: nn.Module, rows: Tensor, states: Tensor) -> None:
    """Raises TypeError for a model that does not read the keys of PEFT's prefix tuning."""
    keys = num_prefix_keys(model)
    if not keys:
        return
    encoder = model.get_base_model()
    try:
        without = ShortRows(encoder, rows.device).states(rows)
    except RunError:
        return
    if torch.equal(states, without):
        got = not_read(type(encoder).__name__, keys)
        raise TypeError(f"model: got {got}; expected another PEFT method")


def _try(
    model: nn.Module,
    device: torch.device,
    call: Callable[..., Any] | None = None,
    in_place: bool = False,
) -> Trial | None:
    try:
        rows = ShortRows(model, device, call)
    except RunError as error:
        return Trial(Rows.ALONE, f"a trial run is not possible ({error})")
    if type(rows.text) is not Tensor:  # under FakeTensorMode nothing can be compared
        return None
    first = rows.text[:, : rows.width - rows.width // 3]
    with undisturbed(device):
        try:
            alone = rows.states(first)
            if alone.is_meta:
                return None
            if not are_numbers(alone):
                # A copy's weights may not be loaded yet; those of a call are.
                return (
                    Trial(Rows.ALONE, "its states for a short row are zero or not finite")
                    if in_place
                    else None
                )
        except RunError as error:
            return Trial(Rows.ALONE, f"the trial run of a short row failed ({error})")
        _check_prefix_keys(model, first, alone)
        sees_later = rows.see_later()
        both = torch.cat([rows.text, rows.other])
        if rows.has(alone, both):
            return Trial(Rows.ANY, sees_later=sees_later)
        if rows.has(alone, both[:, : first.shape[1]]):
            return Trial(Rows.EQUAL, "padding in a batch changes its states", sees_later)
    return Trial(Rows.ALONE, "the states of a row depend on the other rows of a batch", sees_later)
