"""A transformers model on lckernels' attention: patch, unpatch, and what was done to each layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lckernels.backends.registry import BACKENDS, BackendError, Problem, choose, why_no_kernel
from lckernels.checks import bad
from lckernels.hf.changes import Settings, is_compiled, is_patched, patch_modules, unpatch_modules
from lckernels.hf.dry_run import Call, DryRun, padded_run
from lckernels.hf.mask import WAY, Window
from lckernels.hf.report import APPROXIMATE, EXACT, LATER, Report, Row
from lckernels.hf.settings import LayerSettings

_UNSEEN = f"its code does not go through {WAY}"


def patch(
    model: nn.Module,
    window: int | Window | None = None,
    sink_tokens: int | None = None,
    positions: str = "absolute",
    backend: str | None = None,
) -> Report:
    """Every attention layer of this model that goes through transformers' interface runs on lckernels.

    Only this instance changes: it gets a config object of its own. Nothing of lckernels is saved with it. A
    mask that lckernels does not know runs as a dense mask, with the same results.

    Args:
        model: a transformers model, or a module that holds one (PEFT, DDP).
        window: None leaves which keys a token sees as it is: results are those of eager attention. A window
            turns full attention into windowed attention, which is an approximation: an int W is W keys with
            the token itself in causal layers, W // 2 to each side in others; a tuple is (left, right) in
            keys, inclusive, -1 without bound (in causal layers right is 0). Layers with a window of their own
            and cross attention stay as they are.
        sink_tokens: with a window, so many first tokens of a text stay visible; default 0.
        positions: "absolute".
        backend: name of a backend; None takes the first that can.

    Returns:
        The report: each attention layer, what it runs on, and whether that is exact.

    Raises:
        TypeError: a model on which this would change nothing, naming why. ValueError: a patched or compiled
        model, one that a LongEncoder runs just now, a bad argument, or a config that asks for
        output_attentions, which only eager attention gives. BackendError: no backend can, or none but the
        reference, which computes every score.
    """
    _check(model, window, sink_tokens, positions, backend)
    run = padded_run(model)
    report, settings = plan_patch(model, run, LayerSettings(window, sink_tokens or 0, backend))
    patch_modules(model, settings)
    return report


def unpatch(model: nn.Module) -> None:
    """The model is what it was before `patch`. Raises ValueError if it is not patched."""
    if not is_patched(model):
        raise bad(
            "model", f"{type(model).__name__}, not patched", "expected one after lckernels.patch(model)"
        )
    unpatch_modules(model)


@contextmanager
def patched(model: nn.Module, **options: Any) -> Iterator[Report]:
    """`with patched(model):` is `patch(model, **options)` for as long; gives the report."""
    report = patch(model, **options)
    try:
        yield report
    finally:
        unpatch(model)


def plan_patch(
    model: nn.Module, run: DryRun, wanted: LayerSettings, device_type: str | None = None
) -> tuple[Report, Settings]:
    """The report of a patch and the settings of its layers. Raises TypeError where it would do nothing.

    device_type: where the model would run; None is where it lies.
    """
    modules = dict(model.named_modules())
    settings: Settings = {}
    rows = []
    first: dict[str, Call] = {}
    for call in run.calls:
        first.setdefault(call.layer, call)
    for name, call in first.items():
        own = LayerSettings(wanted.window, wanted.sink_tokens, wanted.backend, call.kind)
        settings[modules[name]] = own
        rows.append(_row(model, call, own, device_type))
    unseen = [name for name in _attention_modules(model) if not _seen(name, first)]
    if run.error:
        for name in unseen:
            settings[modules[name]] = LayerSettings(wanted.window, wanted.sink_tokens, wanted.backend)
            verdict = LATER if wanted.window is None else f"{APPROXIMATE} if full, {LATER}"
            rows.append(Row(name, "not known", None, "", verdict))
    else:
        rows += [Row(name, "not known", None, "", f"left: {_UNSEEN}") for name in unseen]
    report = Report(type(model).__name__, tuple(rows), "" if run.refused else run.error)
    why = _nothing_to_do(model, run, report, wanted.window)
    if why:
        raise TypeError(f"model: got {type(model).__name__}; a patch would do nothing: {why}")
    return report, settings


def _check(
    model: nn.Module,
    window: int | Window | None,
    sink_tokens: int | None,
    positions: str,
    backend: str | None,
) -> None:
    if not any(isinstance(module, PreTrainedModel) for module in model.modules()):
        raise TypeError(f"model: got {type(model).__name__}; expected a model of transformers")
    if is_patched(model):
        raise bad("model", f"{type(model).__name__}, patched already", "lckernels.unpatch(model) comes first")
    if is_compiled(model):
        raise bad("model", f"{type(model).__name__}, compiled", "patch the model, then torch.compile it")
    if positions != "absolute":
        raise bad("positions", repr(positions), "allowed is 'absolute'; 'cache' is not served yet")
    if backend is not None and backend not in BACKENDS:
        raise bad("backend", repr(backend), f"allowed are {', '.join(BACKENDS)}")
    check_window(window, sink_tokens)
    configs = (getattr(module, "config", None) for module in model.modules())
    if any(getattr(config, "output_attentions", False) for config in configs):
        raise bad("model", "a config with output_attentions=True", "only eager attention gives the weights")


def check_window(window: int | Window | None, sink_tokens: int | None) -> None:
    """Raises ValueError for a window or sink tokens that `patch` does not take."""
    sides = (window,) if isinstance(window, int) else window
    if sides is not None:
        lowest = 1 if isinstance(window, int) else -1
        whole = isinstance(sides, tuple) and all(type(side) is int and side >= lowest for side in sides)
        if not whole or len(sides) != (1 if isinstance(window, int) else 2):
            more = "" if type(window) is int else ", (left, right) with sides >= -1, or None"
            raise bad("window", repr(window), f"expected an int >= 1{more}")
    if sink_tokens is None:
        return
    if type(sink_tokens) is not int or sink_tokens < 0:
        raise bad("sink_tokens", repr(sink_tokens), "expected an int >= 0")
    if sink_tokens and window is None:
        raise bad("sink_tokens", sink_tokens, "they stay visible beside a window; window is None")


def _row(model: nn.Module, call: Call, settings: LayerSettings, device_type: str | None) -> Row:
    if call.dense:
        return Row(call.layer, "dense", None, "", f"left to torch's dense attention: {call.dense}")
    kind = settings.narrowed(call.kind)
    verdict = EXACT
    if kind != call.kind:
        sinks = f" and {settings.sink_tokens} sink tokens" if settings.sink_tokens else ""
        verdict = f"{APPROXIMATE}: {call.kind} attention with a window{sinks}"
    own_device, dtype = _lies(model)
    problem = Problem("windowed_attention", device_type or own_device, dtype, call.shapes)
    chosen = choose(problem, settings.backend)
    missing = why_no_kernel(chosen, problem)
    if missing and not problem.explicit:
        raise BackendError(f"{missing}; backend='eager' runs the reference, with every score in memory")
    return Row(call.layer, str(kind), kind.window, chosen.__name__.rpartition(".")[2], verdict)


def _lies(model: nn.Module) -> tuple[str, torch.dtype]:
    """Device and dtype of its numbers; of weights that accelerate keeps elsewhere it says the device."""
    numbers = [p for p in model.parameters() if p.is_floating_point()]
    there = next((p for p in numbers if p.device.type != "meta"), numbers[0])
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    runs_on = [device for hook in hooks if (device := getattr(hook, "execution_device", None)) is not None]
    device = torch.device(runs_on[0]) if there.device.type == "meta" and runs_on else there.device
    return device.type, there.dtype


def _attention_modules(model: nn.Module) -> list[str]:
    """Names of modules that are attention by the name of their class, the innermost of each."""
    names = [name for name, module in model.named_modules() if "Attention" in type(module).__name__]
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _seen(name: str, calls: dict[str, Call]) -> bool:
    """Whether a call came from the module, from one in it, or from one that holds it."""
    return any(f"{a}.".startswith(f"{b}.") for call in calls for a, b in ((name, call), (call, name)))


def _nothing_to_do(model: nn.Module, run: DryRun, report: Report, window: Any) -> str:
    """Why no layer would run on lckernels; empty if some do, or nobody knows."""
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not any(m._can_set_attn_implementation() for m in models):
        return f"the attention of {type(models[0]).__name__} does not go through {WAY}"
    if run.refused:
        return run.error
    if report.taken:
        changed = window is None or any(row.verdict != EXACT for row in report.taken) or run.error
        return "" if changed else "it has no full attention that a window could narrow"
    if run.error and not run.calls:
        return ""  # nobody knows before the first call
    return run.reasons()[0] if run.reasons() else _UNSEEN
