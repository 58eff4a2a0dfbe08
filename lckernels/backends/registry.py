"""The choice of a backend for each call of an op."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import torch

BACKENDS = ("cpu", "triton", "cuda", "eager")  # packages beside this file, in order of preference
ISAS = ("generic", "avx2", "avx512", "avx512_bf16")  # in order: a processor that has one has all before it
_ENVIRONMENT = "LCKERNELS"
_SETTINGS = {"backend": BACKENDS, "isa": ISAS}


@dataclass(slots=True)
class Problem:
    """The properties of one call that the choice depends on: built once per call, before any kernel runs.

    Attributes:
        op: name of the op; a backward has its forward's.
        device_type: of the inputs, as in `torch.device.type`.
        dtype: of the inputs.
        shapes: of the inputs; empty when only the op, the device and the dtype matter.
        score_bytes: size of the scores if they were materialised at once, in bytes.
        segmented: with segment_ids.
        explicit: the caller named the backend.
    """

    op: str
    device_type: str
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    score_bytes: int = 0
    segmented: bool = False
    explicit: bool = False

    def __str__(self) -> str:
        shapes = ", ".join(str(tuple(shape)) for shape in self.shapes)
        return f"{self.op} on {self.device_type}, {self.dtype}{', shapes ' if shapes else ''}{shapes}"


@dataclass(slots=True, eq=False)
class Backend:
    """One implementation of the ops.

    Attributes:
        name: as in `backend=` and in LCKERNELS.
        ops: the function of each op that the backend implements, backward passes included, by the op's name.
        reasons: why the backend cannot solve a problem; an empty list if it can.
        unavailable: why the backend cannot run on this machine; empty if it can.
        window_forward: windowed_attention of tensors on the CPU with a window, a scale and an offset, as
            (q, k, v, left, right, softmax_scale, offset, heads_first); it checks the tensors itself. None:
            there is none.
    """

    name: str
    ops: Mapping[str, Callable]
    reasons: Callable[[Problem], list[str]]
    unavailable: Callable[[], str]
    window_forward: Callable | None = None


def by_name(*functions: Callable) -> dict[str, Callable]:
    """The functions by their names, which are those of the ops."""
    return {function.__name__: function for function in functions}


class BackendError(RuntimeError):
    """No backend can solve the problem; the message names the inputs and each backend's reasons."""


@cache
def settings() -> dict[str, str]:
    """The environment variable LCKERNELS, e.g. `LCKERNELS="backend=eager,isa=avx2"`, as a validated dict."""
    result = {}
    for item in filter(str.strip, os.environ.get(_ENVIRONMENT, "").split(",")):
        name, value = (part.strip() for part in item.partition("=")[::2])
        if name not in _SETTINGS:
            raise ValueError(f"{_ENVIRONMENT}: got the setting {name!r}; allowed are {', '.join(_SETTINGS)}")
        if value not in _SETTINGS[name]:
            allowed = f"allowed are {', '.join(_SETTINGS[name])}"
            commas = "; a comma separates settings" if "=" in value else ""
            raise ValueError(f"{_ENVIRONMENT}: got {name}={value!r}; {allowed}{commas}")
        result[name] = value
    return result


def backends() -> dict[str, Backend]:
    """Every backend of this version by name, in order of preference."""
    return {name: _backend(name) for name in BACKENDS}


def availability() -> dict[str, str]:
    """For each backend: why it cannot run on this machine; empty if it can."""
    return {name: backend.unavailable() for name, backend in backends().items()}


def op_names() -> list[str]:
    """Every op that a backend implements, without the backward passes."""
    names = dict.fromkeys(name for backend in backends().values() for name in backend.ops)
    return [name for name in names if not name.endswith("_backward")]


def choose(problem: Problem, backend: str | None = None, *, warn: bool = True) -> Backend:
    """The backend that runs a problem.

    Args:
        problem: the call's properties.
        backend: name of a backend; None means the setting of LCKERNELS, or the first that can.
        warn: whether to warn once if that is the reference, since no other backend can; False where no call
            follows.

    Returns:
        The backend.

    Raises:
        BackendError: no backend can, or the named one cannot.
        ValueError: no backend has that name.
    """
    backend = backend or settings().get("backend")
    problem.explicit = backend is not None
    failures = {}
    for name in (backend,) if backend else BACKENDS:
        candidate = _backend(name)
        reasons = candidate.reasons(problem)
        if not reasons:
            if name == "eager" and warn and not problem.explicit:
                _warn_of_eager(problem.op, problem.device_type, problem.dtype, _lines(failures))
            return candidate
        failures[name] = reasons
    if not backend:
        raise BackendError(f"no backend can run {problem}:{_lines(failures)}")
    able = [name for name in BACKENDS if name != backend and not _backend(name).reasons(problem)]
    got = f"{backend!r}, which cannot run {problem}: {'; '.join(failures[backend])}"
    raise BackendError(f"backend: got {got}; {'expected ' + ' or '.join(able) if able else 'no other can'}")


def window_forward() -> Callable | None:
    """`Backend.window_forward` of the backend that comes first; None without one."""
    name = settings().get("backend", BACKENDS[0])
    first = _loaded.get(name)
    return (_backend(name) if first is None else first).window_forward


def _lines(failures: dict[str, list[str]]) -> str:
    return "".join(f"\n  {name}: {'; '.join(reasons)}" for name, reasons in failures.items())


@cache
def _warn_of_eager(op: str, device_type: str, dtype: torch.dtype, lines: str) -> None:
    warnings.warn(
        f"lckernels: no kernel for {op} on {device_type} in {dtype}; the reference runs (backend='eager'), "
        f"slowly:{lines}",
        stacklevel=4,
    )


def why_no_kernel(chosen: Backend, problem: Problem) -> str:
    """What is missing if the chosen backend is the reference, which computes every score; else empty."""
    if chosen.name != "eager":
        return ""
    return f"lckernels has no kernel for it on {problem.device_type} in {problem.dtype}"


_loaded: dict[str, Backend] = {}


def _backend(name: str) -> Backend:
    backend = _loaded.get(name)
    if backend is None:
        if name not in BACKENDS:
            raise ValueError(f"backend: got {name!r}; allowed are {', '.join(BACKENDS)}")
        backend = _loaded[name] = import_module(f"lckernels.backends.{name}").BACKEND
    return backend
