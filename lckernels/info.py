"""Facts about this installation: versions, compiled parts, the machine, the backend of each op."""

import importlib.metadata
import platform
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

from lckernels.backends import registry
from lckernels.dtypes import FLOATS

PACKAGES = (
    "lckernels",
    "torch",
    "triton",
    "transformers",
    "safetensors",
    "sentencex",
    "typer",
    "rich",
    "matplotlib",
)
_FOLDER = Path(__file__).resolve().parent
_C, _HOST = "_C (CPU ops)", "_host (planner, roofline)"


def versions() -> dict[str, str]:
    """Package -> version, Python first; "not installed" where it is."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def built() -> dict[str, str]:
    """Compiled part -> "built", "not built", or why it does not load."""
    parts = {
        _C: (_FOLDER / "_C.so").exists(),
        _HOST: find_spec("lckernels._host") is not None,
        "_C_cuda (CUDA ops)": (_FOLDER / "_C_cuda.so").exists(),
    }
    found = {name: "built" if there else "not built" for name, there in parts.items()}
    for name, reason in ((_C, registry.availability()["cpu"]), (_HOST, _host_module()[1])):
        if parts[name] and reason:
            found[name] = f"built; {reason}"
    return found


def _host_module() -> tuple[ModuleType | None, str]:
    """The compiled module _host, or None and why it cannot be imported."""
    try:
        from lckernels import _host
    except ImportError as error:
        return None, str(error)
    return _host, ""


def machine() -> dict[str, str]:
    """Processor, instruction sets, threads, GPU, and the settings of the environment variable LCKERNELS."""
    facts = {"system": f"{platform.system()} {platform.machine()}"}
    host, _ = _host_module()
    if host is not None:
        facts["instruction set found"] = host.detected_isa()
    if not registry.availability()["cpu"]:
        facts["instruction set in use"] = torch.ops.lckernels_cpu.isa()
    facts["instruction set of torch"] = torch.backends.cpu.get_cpu_capability()
    facts["threads of torch"] = str(torch.get_num_threads())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch supports"
    facts["GPU"] = gpu
    facts["LCKERNELS"] = (
        ", ".join(f"{name}={value}" for name, value in registry.settings().items()) or "not set"
    )
    return facts


def served() -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """Rows (op, device, dtypes, backend, reasons against the others); dtypes with one answer are joined."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    rows = []
    for op in registry.op_names():
        for device in devices:
            answers: dict[tuple[str, tuple[str, ...]], list[str]] = {}
            for dtype in FLOATS:
                answer = _choice(registry.Problem(op, device, dtype, shapes=()))
                answers.setdefault(answer, []).append(str(dtype).removeprefix("torch."))
            rows += [(op, device, ", ".join(dtypes), *answer) for answer, dtypes in answers.items()]
    return rows


def _choice(problem: registry.Problem) -> tuple[str, tuple[str, ...]]:
    """The backend chosen for the problem, and each other one with its reasons."""
    try:
        chosen = registry.choose(problem, warn=False).name
    except registry.BackendError:
        chosen = "none"
    others = []
    for name, backend in registry.backends().items():
        if name == chosen:
            continue
        reasons = backend.reasons(problem)
        no_kernel = f"it has no kernel for {problem.op}"
        if backend.ops and problem.op not in backend.ops and no_kernel not in reasons:
            reasons = [*reasons, no_kernel]  # a device that is absent hides it
        reasons = reasons or [f"it can, {chosen} comes before it"]
        others.append(f"{name}: {'; '.join(reasons)}")
    return chosen, tuple(others)
