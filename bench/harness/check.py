"""Compares a provider's result with the reference, with a measured tolerance, before it is timed."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Smallest error that is allowed, per dtype, relative to results of size 1; the tests use it too.
FLOOR = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-4, torch.bfloat16: 1e-3}
# The largest error allowed for the baseline, which sets the bound of the others: a number of floors, or a
# share of the largest result (the fp32 error of thirty layers of real weights is more floors than that).
_SANE_FLOORS, _SANE_SHARE = 100, 1e-3

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Checked:
    """The outcome of a check: the largest error and the bound that it was compared with."""

    error: float
    bound: float

    @property
    def passed(self) -> bool:
        return self.error <= self.bound


def check(provider: str, actual: Tensors, truth: Tensors, baseline: Tensors) -> Checked:
    """Compares every tensor of a result with the truth.

    The bound is twice the error of the baseline plus FLOOR for the coarsest dtype among the results.

    Args:
        provider: Named in the messages.
        actual: The results to check.
        truth: The reference, in higher precision.
        baseline: The results of plain torch in the same dtype as `actual`.

    Returns:
        Error and bound of the tensor that comes nearest to its bound.

    Raises:
        AssertionError: A shape differs, a value is not finite, or an error exceeds its bound.
    """
    found = []
    floor = max(FLOOR[x.dtype] for x in actual)
    for i, (got, want, plain) in enumerate(zip(actual, truth, baseline, strict=True)):
        assert got.shape == want.shape, f"{provider}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
        assert got.isfinite().all(), f"{provider}: result {i} is not finite"
        rounding, plain_error = floor * max(1.0, largest(want)), distance(plain, want)
        sane = max(_SANE_FLOORS * floor, _SANE_SHARE) * max(1.0, largest(want))
        assert plain_error <= sane, f"{provider}: the plain route {i} is off by {plain_error:.3g}"
        one = Checked(distance(got, want), 2 * plain_error + rounding)
        assert one.passed, f"{provider}: result {i} is off by {one.error:.3g}, allowed is {one.bound:.3g}"
        found.append(one)
    return worst(found)


def worst(found: list[Checked]) -> Checked:
    """The one that comes nearest to its bound."""
    return max(found, key=lambda one: one.error / one.bound if one.bound else 0.0)


def distance(a: Tensor, b: Tensor) -> float:
    return largest(a.to(b.dtype) - b)


def largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def truth_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for half precision, fp64 for the others."""
    return torch.float32 if dtype.itemsize == 2 else torch.float64
