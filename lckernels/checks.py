"""Checks of arguments: one clear error before any kernel runs.

Only shapes, dtypes, devices and Python numbers are read. `check_packed_bounds` alone reads a tensor's values.
"""

import math

import torch
from torch import Tensor

from lckernels.dtypes import FLOATS
from lckernels.fields import FlatOptions
from lckernels.options import Layout

INT32_MAX = 2**31 - 1
WEIGHTS = ("uniform", "triangular", "hann", "crop")
_KINDS = {"integer": (torch.int32, torch.int64), "bool": (torch.bool,), "floating": FLOATS}
_KIND_NAMES = {"integer": "an integer", "bool": "a bool", "floating": "a floating"}


def bad(argument: str, got: object, allowed: str) -> ValueError:
    """The ValueError `argument: got X; expected Y`; `allowed` is all that follows the semicolon."""
    return ValueError(f"{argument}: got {got}; {allowed}")


def weights_error(position: int) -> ValueError:
    """The ValueError of every backend for explicit merge weights with unusable values at `position`."""
    wrong = f"values negative, not finite or of sum zero at position {position}"
    return bad("weights", wrong, "expected finite ones >= 0 with a sum > 0")


def tensor(name: str, x: object, rank: int, shape: str, hint: str = "") -> None:
    """Raises unless x is a tensor of `rank` dimensions.

    Args:
        name: the argument, for the message.
        x: its value.
        rank: the dimensions that are expected.
        shape: their names, for the message.
        hint: ends the message where one dimension is missing.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected a torch.Tensor {shape}")
    if x.dim() != rank:
        ending = hint if x.dim() == rank - 1 else ""
        raise bad(name, f"shape {tuple(x.shape)}", f"expected {rank} dimensions {shape}{ending}")


def floating(name: str, x: Tensor) -> None:
    """Raises unless x has one of the ops' dtypes."""
    if x.dtype not in FLOATS:
        raise bad(name, f"dtype {x.dtype}", "allowed are float32, bfloat16, float16, float64")


def like(name: str, x: Tensor, other_name: str, other: Tensor, autocasts: bool = False) -> None:
    """Raises unless x has other's device and dtype; with autocasts, unless autocast equalizes the dtypes."""
    if x.device != other.device:
        raise bad(name, f"device {x.device}", f"{other_name} is on {other.device}")
    if x.dtype == other.dtype:
        return
    device = other.device.type
    active = autocasts and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not active or torch.float64 in (x.dtype, other.dtype):
        raise bad(name, f"dtype {x.dtype}", f"{other_name} has {other.dtype}")


def is_integer(x: object) -> bool:
    """Whether x is an int (or a traced one) and no bool."""
    return isinstance(x, int | torch.SymInt) and not isinstance(x, bool)


def integer(name: str, x: object, minimum: int, maximum: int = INT32_MAX) -> int:
    """Checks one integer argument.

    Args:
        name: the argument, for the message.
        x: its value.
        minimum: least value allowed.
        maximum: largest value allowed.

    Returns:
        x.

    Raises:
        TypeError: x is no int, or a bool.
        ValueError: x is out of range.
    """
    if not is_integer(x):
        raise TypeError(f"{name}: got {x!r}; expected an int >= {minimum}")
    if not minimum <= x <= maximum:
        limit = "below 2^31" if maximum == INT32_MAX else f"at most {maximum}"
        raise bad(name, x, f"expected an int >= {minimum} and {limit}")
    return x


def number(name: str, x: object, minimum: float) -> None:
    """Raises unless x is a finite number >= minimum."""
    if not isinstance(x, int | float | torch.SymFloat) or isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}; expected a number")
    if not minimum <= x < math.inf:
        raise bad(name, x, "expected a finite number" + (" >= 0" if minimum == 0 else ""))


def option(
    name: str, x: Tensor | None, kind: str, other_name: str, other: Tensor, *shapes: tuple[int, ...]
) -> None:
    """Raises unless x is None, or a tensor of one of the shapes on other's device; kind: a key of _KINDS."""
    if x is None:
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}; expected {_KIND_NAMES[kind]} tensor")
    if tuple(x.shape) not in shapes:
        raise bad(name, f"shape {tuple(x.shape)}", f"expected {' or '.join(str(shape) for shape in shapes)}")
    if x.dtype not in _KINDS[kind]:
        raise bad(name, f"dtype {x.dtype}", f"expected {_KIND_NAMES[kind]} tensor")
    if x.device != other.device:
        raise bad(name, f"device {x.device}", f"{other_name} is on {other.device}")


def check_packed_bounds(layout: Layout | FlatOptions, total_q: int, total_k: int) -> list[list[int]]:
    """Checks the values of cu_seqlens_q and cu_seqlens_k; on a GPU this synchronizes.

    Args:
        layout: of the attention; or its flat options.
        total_q: rows of q.
        total_k: rows of k.

    Returns:
        Both tables as lists; an empty list if the input is not packed.

    Raises:
        ValueError: a table does not start at 0, falls, or does not end at the number of rows.
    """
    sides: list[list[int]] = []
    if layout.cu_seqlens_q is None and layout.cu_seqlens_k is None:
        return sides
    for name, total in (("cu_seqlens_q", total_q), ("cu_seqlens_k", total_k)):
        cu_seqlens = getattr(layout, name)
        if cu_seqlens is None:
            continue
        bounds = cu_seqlens.tolist()
        if bounds[0] != 0 or bounds[-1] != total or bounds != sorted(bounds):
            allowed = f"expected bounds that start at 0, never fall and end at {total}"
            raise bad(f"layout.{name}", bounds, allowed)
        sides.append(bounds)
    return sides
