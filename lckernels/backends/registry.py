"""Which backend serves which problem: one table, asked by every op."""

import os
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

BACKENDS = ("cpu", "triton", "cuda", "eager")
ISAS = ("generic", "avx2", "avx512", "avx512_bf16")  # in order: a processor that has one has all before it
_ENVIRONMENT = "LCKERNELS"
_SETTINGS = {"backend": BACKENDS, "isa": ISAS}


@dataclass(slots=True)
class Problem:
    """What a backend must know to say whether it can: built once per call, before any kernel runs."""

    op: str
    device_type: str
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    score_bytes: int = 0
    segmented: bool = False  # with segment_ids
    explicit: bool = False

    def __str__(self) -> str:
        shapes = ", ".join(str(tuple(shape)) for shape in self.shapes)
        return f"{self.op} on {self.device_type}, {self.dtype}, shapes {shapes}"


class BackendError(RuntimeError):
    """No backend can solve the problem; the message names the inputs and each backend's reasons."""


@cache
def settings() -> dict[str, str]:
    """The environment variable LCKERNELS, e.g. `LCKERNELS="backend=eager,isa=avx2"`, as a checked dict."""
    result = {}
    for item in filter(None, os.environ.get(_ENVIRONMENT, "").split(",")):
        name, _, value = item.strip().partition("=")
        if name not in _SETTINGS:
            raise ValueError(f"{_ENVIRONMENT}: got the setting {name!r}; allowed are {', '.join(_SETTINGS)}")
        if value not in _SETTINGS[name]:
            raise ValueError(
                f"{_ENVIRONMENT}: got {name}={value!r}; allowed are {', '.join(_SETTINGS[name])}"
            )
        result[name] = value
    return result


def backends() -> dict[str, ModuleType]:
    """Every backend of this version by name, in order of preference."""
    return {name: _module(name) for name in BACKENDS}


def availability() -> dict[str, str]:
    """For each backend: empty when it can run on this machine, else why not."""
    return {name: module.unavailable() for name, module in backends().items()}


def choose(problem: Problem, backend: str | None = None) -> ModuleType:
    """The first backend that can, or the one asked for; raises BackendError when none can."""
    backend = backend or settings().get("backend")
    problem.explicit = backend is not None
    refused = {}
    for name in (backend,) if backend else BACKENDS:
        module = _module(name)
        why = module.reasons(problem)
        if not why:
            return module
        refused[name] = why
    lines = [f"  {name}: {'; '.join(why)}" for name, why in refused.items()]
    raise BackendError("\n".join([f"no backend can run {problem}:", *lines]))


def why_no_kernel(chosen: ModuleType, problem: Problem) -> str:
    """What is missing where the chosen backend is the reference, which computes every score; else empty."""
    if not chosen.__name__.endswith(".eager"):
        return ""
    return f"lckernels has no kernel for it on {problem.device_type} in {problem.dtype}"


_modules: dict[str, ModuleType] = {}


def _module(name: str) -> ModuleType:
    module = _modules.get(name)
    if module is None:
        if name not in BACKENDS:
            raise ValueError(f"backend: got {name!r}; allowed are {', '.join(BACKENDS)}")
        module = _modules[name] = import_module(f"lckernels.backends.{name}")
    return module
