"""The tolerance: twice the measured error of plain torch arithmetic in the same dtype."""

import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from bench.harness.check import FLOOR


def assert_as_good_as(
    actual: Tensor,
    truth: Tensor,
    honest: Tensor | Callable[[], Tensor],
    name: str = "result",
    rounding: float = 0.0,
) -> None:
    """Largest error of `actual` <= twice that of `honest`, plus the dtype's floor times max(1, |truth|).

    NaN and infinities must be at the same positions in `actual` and `truth`.

    Args:
        actual: the result under test.
        truth: the exact result in fp64; fp32 is sufficient for lower precision.
        honest: the result of plain torch arithmetic in actual's dtype, or a function that returns it and is
            called only if the error exceeds the floor.
        name: of the result, for messages.
        rounding: additional error, where terms cancel and `honest` may be closer than its rounding by chance.
    """
    assert actual.shape == truth.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(truth.shape)}"
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(actual), kind(truth)), f"{name}: {kind.__name__} at other positions"
    if truth.numel() == 0:
        return
    finite = torch.isfinite(truth)

    def error(x: Tensor) -> float:
        return torch.where(finite, (x.double() - truth.double()).abs(), 0).max().item()

    size = torch.where(finite, truth.double().abs(), 0).max().item()
    allowed = FLOOR[actual.dtype] * max(size, 1.0) + rounding
    if callable(honest):
        if error(actual) <= allowed:
            return
        honest = honest()
    assert torch.isfinite(honest[finite]).all(), f"{name}: the honest result is not finite"
    allowed += 2 * error(honest)
    assert error(actual) <= allowed, f"{name}: error {error(actual):.3e}, allowed {allowed:.3e}"


def interpreter_rounding(backend: str, truth: Tensor, dtype: torch.dtype) -> float:
    """`rounding` for results of Triton's interpreter: one unit in the last place in bf16, else 0."""
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if not interpreted or dtype != torch.bfloat16 or truth.numel() == 0:
        return 0.0
    warnings.warn(
        "bf16 in Triton's interpreter, which truncates where a GPU rounds: twice the error", stacklevel=2
    )
    return torch.where(torch.isfinite(truth), truth.abs(), 0).max().item() * 2**-7
