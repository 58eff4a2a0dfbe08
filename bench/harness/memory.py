"""Peak memory of one call: resident bytes above those before it."""

import ctypes
import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from torch import Tensor

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)

Result = TypeVar("Result", bound=Iterable[Tensor])


def with_extra_bytes(call: Callable[[], Result]) -> tuple[Result, int | None]:
    """What the call returns, and its peak of resident bytes above those before it and its results.

    Freed memory is returned to the system first, so that the call cannot reuse it. The bytes are None where
    the system does not count them (no Linux).
    """
    gc.collect()
    _trim_heap()
    try:
        before = _resident("VmRSS")
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return call(), None
    result = call()
    peak = _resident("VmHWM")
    return result, max(0, peak - before - sum(x.numel() * x.element_size() for x in result))


def reset_peak() -> None:
    """Begins a new peak of resident bytes, where the system counts them."""
    if _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)


def peak_bytes() -> int | None:
    """The peak of resident bytes since `reset_peak`; None where the system does not count them."""
    return _resident("VmHWM") if _CLEAR.exists() else None


def resident_bytes() -> int | None:
    """Resident bytes now, after freed memory is returned; None where the system does not count them."""
    gc.collect()
    _trim_heap()
    return _resident("VmRSS") if _STATUS.exists() else None


def _resident(field: str) -> int:
    lines = (line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return 1024 * int(next(lines).split()[1])


def _trim_heap() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
