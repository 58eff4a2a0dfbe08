"""Checks of arguments: one clear error before any kernel runs.

Only shapes, dtypes, devices and Python numbers are read. `check_packed_bounds` alone reads a tensor's values.
"""

import math
import numbers
import operator
import reprlib

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


def boolean(name: str, x: object) -> bool:
    """x. Raises TypeError unless it is a bool."""
    if not isinstance(x, bool):
        raise TypeError(f"{name}: got {reprlib.repr(x)}; expected True or False")
    return x


def linear_option(linear: str | None) -> None:
    """Raises ValueError for an unknown value of the argument `linear`."""
    if linear is not None and linear != "packed":
        raise bad("linear", repr(linear), "allowed are None and 'packed'")


def weights_error(position: int) -> ValueError:
    """The ValueError of every backend for explicit merge weights with unusable values at `position`."""
    wrong = f"values negative, not finite or of sum zero at position {position}"
    hint = " (torch.hann_window begins with 0; weights='hann' has no zero)"
    return bad("weights", wrong, f"expected finite ones >= 0 with a sum > 0{hint}")


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


def integer(
    name: str, x: object, minimum: int | None = None, maximum: int = INT32_MAX, alternative: str = ""
) -> int:
    """One integer argument as an int. Every integer argument of the library passes here.

    Integers of numpy are integers. A bool is none, and neither is a 0-d tensor: the host would wait for a GPU
    to read it, so the caller passes int(x).

    Args:
        name: the argument, for the message.
        x: its value.
        minimum: least value allowed; None: no range is checked.
        maximum: largest value allowed.
        alternative: what else the argument may be, for the message: " or ...".

    Returns:
        x as an int (a torch.SymInt where torch traces it).

    Raises:
        TypeError: x is no integer.
        ValueError: x is out of range.
    """
    if type(x) is not int and not isinstance(x, torch.SymInt):  # the first test is the whole cost of an int
        x = _as_int(name, x, minimum, alternative)
    if minimum is not None and not minimum <= x <= maximum:
        limit = "below 2^31" if maximum == INT32_MAX else f"at most {maximum}"
        raise bad(name, x, f"expected an int >= {minimum} and {limit}")
    return x


def _as_int(name: str, x: object, minimum: int | None, alternative: str) -> int:
    if not isinstance(x, bool | Tensor):
        try:
            return operator.index(x)
        except TypeError:
            pass
    least = "" if minimum is None else f" >= {minimum}"
    got = "a tensor" if isinstance(x, Tensor) else repr(x)
    raise TypeError(f"{name}: got {got}; expected an int{least}{alternative}")


def integers(
    name: str, values: object, ndim: int = 1, *, single: bool = False, expected: str | None = None
) -> Tensor:
    """A sequence or table of integers as a tensor.

    Args:
        name: the argument, for the message.
        values: a list, a tuple, an array or a tensor of integers.
        ndim: dimensions of the result.
        single: whether one integer is a sequence of one.
        expected: ends the message; default: a sequence of integers is expected, or a table.

    Returns:
        int64 of `ndim` dimensions, on the CPU; of no rows if `values` is an empty sequence.

    Raises:
        ValueError: values that are no integers (bools are none), or of other dimensions.
    """
    expected = expected or f"expected a {'sequence' if ndim == 1 else 'table'} of integers"
    try:
        tensor = torch.as_tensor(values, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise bad(name, reprlib.repr(values), expected) from error
    if tensor.numel() == 0 and not isinstance(values, Tensor):
        return torch.empty((0,) if ndim == 1 else (0, 4), dtype=torch.int64, device="cpu")
    if single and tensor.dim() == 0:
        tensor = tensor[None]
    if (
        tensor.dim() != ndim
        or tensor.is_floating_point()
        or tensor.is_complex()
        or tensor.dtype == torch.bool
    ):
        raise bad(name, f"shape {tuple(tensor.shape)} of {tensor.dtype}", expected)
    return tensor.to(torch.int64)


def number(name: str, x: object, minimum: float) -> None:
    """Raises unless x is a finite number >= minimum, of Python or numpy."""
    value = x if type(x) is float or type(x) is int else _as_number(name, x)
    if not minimum <= value < math.inf:
        raise bad(name, x, "expected a finite number" + (" >= 0" if minimum == 0 else ""))


def _as_number(name: str, x: object) -> int | float:
    if isinstance(x, torch.SymFloat | torch.SymInt):
        return x
    if not isinstance(x, numbers.Real) or isinstance(x, bool):
        raise TypeError(f"{name}: got {x!r}; expected a number")
    return float(x)


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
