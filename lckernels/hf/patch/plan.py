"""From a dry run to the report of a patch and the settings of its layers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lckernels.backends.registry import BackendError, Problem, choose, why_no_kernel
from lckernels.devices import device_and_dtype, first_weight
from lckernels.hf.family import bias_distance, left_out_reason, uses_interface
from lckernels.hf.masks.descriptor import INTERFACE
from lckernels.hf.patch.attention_modules import attention_modules, is_reached
from lckernels.hf.patch.config_notes import config_notes
from lckernels.hf.patch.dry_run import Call, DryRun
from lckernels.hf.patch.modules import Settings
from lckernels.hf.report import APPROXIMATE, BY_DEVICE, EXACT, LATER, Report, Row
from lckernels.hf.settings import LayerSettings
from lckernels.hf.virtual_tokens import under_own_windows, under_window
from lckernels.prompts import unread_prefix_keys

_OWN_CODE = f"its code does not go through {INTERFACE}"
_NOT_ENTERED = "the model's main input does not reach them"


def plan_patch(
    model: nn.Module, run: DryRun, requested: LayerSettings, device_type: str | None = None
) -> tuple[Report, Settings]:
    """The report of a patch and the settings of its layers.

    A window changes the layers that the model's main input reaches; those of a vision tower stay exact.

    Args:
        model: the model to patch.
        run: its dry run.
        requested: window, sink tokens and backend of the patch.
        device_type: where the model would run; default: the model's device.

    Raises:
        TypeError: the patch would change nothing.
        BackendError: no backend supports the calls, or only the reference.
    """
    modules = dict(model.named_modules(remove_duplicate=False))  # a run names a layer by one of its paths
    settings: Settings = {}
    rows = []
    first: dict[str, Call] = {}
    for call in (*run.calls, *run.parts):
        first.setdefault(call.layer, call)
    exact = replace(requested, window=None, sink_tokens=0)
    main = {call.layer for call in run.calls}
    for name, call in first.items():
        given = requested if run.error or name in main else exact
        distance = bias_distance(modules[name]) if call.has_bias else 0
        settings[modules[name]] = own = replace(given, kind=call.kind, bias_distance=distance)
        rows.append(_row(model, call, own, device_type))
    for name in attention_modules(model):
        if is_reached(name, first):
            continue
        if name in run.finished:
            rows.append(Row(name, "not known", None, "", f"left: {_OWN_CODE}"))
            continue
        settings[modules[name]] = own = replace(requested if run.error else exact)
        verdict = LATER if own.window is None else f"{APPROXIMATE} if full, {LATER}"
        rows.append(Row(name, "not known", None, "", verdict))
    unread = unread_prefix_keys(model) if requested.virtual_tokens else ""
    notes = (*config_notes(model, run), *([unread] if unread else _notes(rows, requested)))
    report = Report(type(model).__name__, tuple(rows), _unknown(run, rows), notes=notes, unread=unread)
    why = _nothing_to_do(model, run, report, requested.window)
    if why:
        raise TypeError(f"model: got {type(model).__name__}; a patch would do nothing: {why}")
    return report, settings


def _unknown(run: DryRun, rows: list[Row]) -> str:
    """Why some layers are known only at their first call; empty if there are none."""
    if not any(row.verdict.endswith(LATER) for row in rows):
        return ""
    parts = "; ".join(f"{name}: {error}" for name, error in run.part_errors.items())
    return run.error or parts or _NOT_ENTERED


def _notes(rows: list[Row], requested: LayerSettings) -> Iterator[str]:
    """What the windows of the layers do to PEFT's virtual tokens."""
    count = requested.virtual_tokens
    own = [row for row in rows if row.verdict == EXACT and row.window is not None and row.window[0] >= 0]
    if count and any(row.verdict.startswith(APPROXIMATE) for row in rows):
        yield under_window(count, requested.sink_tokens)
    if count and own:
        yield under_own_windows(count, len(own))


def _row(model: nn.Module, call: Call, settings: LayerSettings, device_type: str | None) -> Row:
    if call.dense:
        return Row(call.layer, "dense", None, "", f"left to torch's dense attention: {call.dense}")
    kind = settings.narrowed(call.kind)
    verdict = EXACT
    if kind != call.kind:
        sinks = f" and {settings.sink_tokens} sink tokens" if settings.sink_tokens else ""
        verdict = f"{APPROXIMATE}: {call.kind} attention with a window{sinks}"
    own_device, dtype = device_and_dtype(model, first_weight(model))
    device_type = device_type or own_device
    if device_type == "meta":
        return Row(call.layer, str(kind), kind.window, settings.backend or BY_DEVICE, verdict)
    problem = Problem("windowed_attention", device_type, dtype, call.shapes)
    chosen = choose(problem, settings.backend, warn=False)
    missing = why_no_kernel(chosen, problem)
    if missing and not problem.explicit:
        raise BackendError(f"{missing}; backend='eager' runs the reference, with every score in memory")
    return Row(call.layer, str(kind), kind.window, chosen.name, verdict)


def _nothing_to_do(model: nn.Module, run: DryRun, report: Report, window: Any) -> str:
    """Why no layer would run on lckernels; empty if some do, or if the dry run failed."""
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not any(map(uses_interface, models)):
        own = f"the attention of {type(models[0]).__name__} does not go through {INTERFACE}"
        return left_out_reason(model) or own
    if run.unsupported:
        return left_out_reason(model) or run.error
    if report.taken:
        changed = window is None or any(row.verdict != EXACT for row in report.taken) or run.error
        if isinstance(window, tuple) and window[0] == -1 and not changed:
            return f"the window {window} has no bound in its layers"
        return "" if changed else "it has no full attention that a window could narrow"
    if run.error and not run.calls:
        return ""
    if window is None and any(row.verdict == LATER for row in report.rows):
        return ""
    return run.reasons()[0] if run.reasons() else _OWN_CODE
