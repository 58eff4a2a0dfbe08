"""The public functions patch, unpatch and patched."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from lckernels.checks import bad, linear_option
from lckernels.hf.cache.rotation import set_rotations
from lckernels.hf.masks.kinds import FAR, Window
from lckernels.hf.patch.arguments import (
    check_arguments,
    check_module,
    check_sides,
    check_window,
)
from lckernels.hf.patch.cross import register_hooks, remove_hooks
from lckernels.hf.patch.dry_run import padded_dry_run
from lckernels.hf.patch.linear.plan import plan_linear
from lckernels.hf.patch.modules import is_patched, patch_modules, unpatch_modules
from lckernels.hf.patch.plan import plan_patch
from lckernels.hf.report import Report
from lckernels.hf.settings import LayerSettings
from lckernels.hf.virtual_tokens import under_window, virtual_tokens_in


def patch(
    model: nn.Module,
    window: int | Window | list[int] | None = None,
    sink_tokens: int | None = None,
    positions: str = "absolute",
    backend: str | None = None,
    linear: str | None = None,
) -> Report:
    """Runs every attention layer of this model that goes through transformers' interface on lckernels.

    Only this instance changes: its config, and what is built from that, do not. Nothing of lckernels is saved
    with it. Masks that lckernels does not support run as dense masks, with the same results.

    Args:
        model: a transformers model, or a module that contains one (PEFT, DDP).
        window: None (default): each token sees the same keys as before; results are those of eager attention.
            A window turns full attention into windowed attention, which is an approximation: an int W means W
            keys including the token itself in causal layers, W // 2 to each side in other layers; a pair is
            (left, right) in keys, inclusive, -1 for no bound. In causal layers right is ignored and 0:
            (255, 5) becomes (255, 0). Layers with their own window and cross attention do not change, nor do
            those that the model's main input does not reach, such as a vision tower. An int above 2**30, more
            keys than any sequence has, is None.
        sink_tokens: number of first tokens of a sequence that stay visible beside the window; default 0. The
            virtual tokens of PEFT's prompt learning are the first: with fewer sink tokens than these, `patch`
            warns. The KV cache of causal layers keeps these and the window (docs/generation.md).
        positions: "absolute" (default): each key has its position in the sequence. "cache", with a window:
            its position in the KV cache. Rotary positions then are those of StreamingLLM; with learned ones
            every token after the cache is full has the same, so that the table does not end.
        backend: name of a backend; default: the first that supports the call.
        linear: None (default): linear layers run as they are. "packed": in calls without gradients on a CPU,
            a layer runs on a copy of its weight that oneDNN packed, where a measurement of at most 0.2 s
            found that faster for its shape; same results up to rounding. `report.linear` has the layers, the
            ratios and the memory of the copies.

    Returns:
        The report: each attention layer, its backend, and whether it is exact.

    Raises:
        TypeError: the patch would change nothing in this model; the message names why.
        ValueError: an invalid argument; a model that is patched or compiled; a config with
            output_attentions, which requires eager attention.
        BackendError: no backend supports the model's calls, or only the reference, which computes every
            score.
    """
    check_arguments(model, positions, backend)
    linear_option(linear)
    window, sink_tokens = check_window(window, sink_tokens)
    given = window
    if isinstance(window, int) and window > FAR:
        window, sink_tokens = None, None
    if positions == "cache" and window is None:
        raise bad("positions", "'cache'", f"it requires a window; window is {given}")
    run = padded_dry_run(model)
    virtual = virtual_tokens_in(model)
    requested = LayerSettings(window, min(sink_tokens or 0, FAR), backend, virtual_tokens=virtual)
    report, settings = plan_patch(model, run, requested)
    check_sides(model, settings)
    if positions == "cache":
        set_rotations(model, settings)
    if report.unread:
        warnings.warn(f"lckernels.patch: {report.unread}", stacklevel=2)
    elif virtual > requested.sink_tokens and not report.exact:
        warnings.warn(f"lckernels.patch: {under_window(virtual, requested.sink_tokens)}", stacklevel=2)
    plan = None if linear is None else plan_linear(model)
    patch_modules(model, settings, positions, () if plan is None else plan.forwards)
    register_hooks(settings)
    return report if plan is None else replace(report, linear=plan.report)


def unpatch(model: nn.Module) -> None:
    """Restores the model to its state before `patch`.

    Raises:
        TypeError: `model` is no module.
        ValueError: the model is not patched.
    """
    check_module(model)
    if not is_patched(model):
        raise bad("model", f"{type(model).__name__}, not patched", "expected a model after lckernels.patch")
    unpatch_modules(model)
    remove_hooks(model)


@contextmanager
def patched(model: nn.Module, **options: Any) -> Iterator[Report]:
    """`patch(model, **options)` as a context manager: yields the report, and unpatches at the end."""
    report = patch(model, **options)
    try:
        yield report
    finally:
        unpatch(model)
