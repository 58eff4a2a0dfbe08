"""A row is one measurement with everything needed to judge it; rows are appended to bench/results/*.jsonl."""

import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import lckernels
from bench.harness.check import Checked
from bench.harness.timing import Timing
from lckernels.backends import registry

RESULTS = Path(__file__).resolve().parents[1] / "results"
UNITS = ("GB/s", "GFLOP/s")
_TREE = (":/", ":(top,exclude)bench/results")  # rows do not make the tree that they measure dirty


@dataclass(frozen=True)
class Row:
    """One provider on one case.

    work        bytes or FLOPs of a call, by `unit`
    ceilings    rates measured in the same run, in `unit`, by name
    percent_of  ceilings for `percent`: equal copies, or every FMA instruction that serves the dtype
    alike       ceilings for `percent_alike`: copies with the op's reads and writes, or FMA without AMX
    ratios      peer name -> its median time over this provider's
    backend     of lckernels, which served the call; empty for a peer
    check       the comparison with the reference; a row without one is refused
    extra_bytes peak resident memory of a call above inputs and results; a backward's holds its forward
    note        what the provider computes, where that is not the op
    left_out    on our own row: peer name -> why it did not take part
    """

    suite: str
    op: str
    provider: str
    direction: str
    shape: dict[str, int | str]
    dtype: str
    timing: Timing
    work: float
    unit: str
    check: Checked | None
    output: str = ""
    ceilings: dict[str, float] = field(default_factory=dict)
    percent_of: tuple[str, ...] = ()
    alike: tuple[str, ...] = ()
    ratios: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    backend: str = ""
    extra_bytes: int | None = None
    note: str = ""
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.work / self.timing.median / 1e9

    def percent(self, names: tuple[str, ...]) -> float | None:
        """The rate in percent of the best of these ceilings; None if none was measured."""
        best = max((self.ceilings[name] for name in names if name in self.ceilings), default=None)
        return 100 * self.rate / best if best else None


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def to_json(row: Row) -> dict[str, Any]:
    """The row as it is stored. Raises ValueError for a result that was not checked or did not pass."""
    if row.check is None or not row.check.passed:
        why = "was not checked" if row.check is None else f"is off by {row.check.error:.3g}"
        raise ValueError(f"no row for {row.provider} on {row.op} {row.direction}: its result {why}")
    if row.unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {row.unit!r}")
    stored = asdict(row)
    percents = {"percent": row.percent(row.percent_of), "percent_alike": row.percent(row.alike)}
    return (
        stored
        | {"rate": row.rate, **percents}
        | {"machine": machine(row.device), "versions": versions(), **commit(), "date": _now()}
    )


def append(rows: list[Row], folder: Path = RESULTS) -> None:
    """Appends each row to the file of its suite; nothing is written if one of them is refused."""
    lines = [(row.suite, json.dumps(to_json(row))) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    for suite, line in lines:
        with (folder / f"{suite}.jsonl").open("a") as file:
            file.write(line + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@lru_cache
def machine(device: str = "cpu") -> dict[str, Any]:
    """CPU model, cores and threads in use, instruction set; the GPU's name where it ran."""
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": torch.multiprocessing.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": _isa(),
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    fields = dict(
        (part.strip() for part in line.split(":", 1))
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if ":" in line
    )
    model = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{name} {fields[key]}"
        for name, key in (("family", "cpu family"), ("model", "model"))
        if key in fields
    ]
    return f"{model} ({', '.join(numbers)})" if numbers else model


def _isa() -> str:
    return torch.ops.lckernels_cpu.isa() if registry.availability()["cpu"] == "" else "none"


@lru_cache
def versions() -> dict[str, str]:
    return {
        "lckernels": lckernels.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@lru_cache
def commit() -> dict[str, Any]:
    """The commit measured and whether the tree differed from it; "unknown" outside a checkout."""
    try:
        return {
            "commit": _git("rev-parse", "--short=12", "HEAD"),
            "dirty": bool(_git("status", "--porcelain", "--", *_TREE)),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


def _git(*args: str) -> str:
    root = Path(__file__).resolve().parent
    return subprocess.run(["git", *args], cwd=root, check=True, capture_output=True, text=True).stdout.strip()
