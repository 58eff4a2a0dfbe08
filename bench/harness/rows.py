"""A row is one measurement with its machine, versions, commit and check; rows are stored in *.jsonl files."""

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

OWN = "lckernels"
_ROOT = Path(__file__).resolve().parents[2]
OUTPUT = _ROOT / "build" / "bench"  # the default folder for new rows; git ignores it
RESULTS = _ROOT / "bench" / "results"  # the tracked rows; `make bench-results` adds to them
UNITS = ("GB/s", "GFLOP/s")
_STORED_NAMES = {"peak_rates": "ceilings", "comparable": "alike"}  # as in the rows that are stored already
_TREE = (":/", ":(top,exclude)bench/results")  # new rows do not mark the measured tree as changed


@dataclass(frozen=True)
class Row:
    """One provider on one case.

    Attributes:
        suite: The file that the row is stored in.
        op: The operation, or the family of a whole model.
        provider: `lckernels` or the name of a peer.
        direction: forward, backward or decode.
        shape: The sizes of the case by name.
        dtype: Of the inputs, without the prefix `torch.`.
        timing: Seconds of a call.
        work: Bytes or FLOPs of a call, by `unit`.
        unit: GB/s or GFLOP/s.
        check: The comparison with the reference; `to_json` rejects a row without one.
        output: "fresh" for newly allocated outputs, "warm" for memory that was written before, or empty.
        peak_rates: Rates that the machine reached in the same run, in `unit`, by name.
        percent_of: Peak rates for `percent`: copies of as many bytes, or every FMA instruction for the dtype.
        comparable: Peak rates for `percent_alike`: copies with the op's reads and writes, or FMA without AMX.
        ratios: Peer name -> its median time divided by this provider's.
        device: cpu or cuda.
        backend: The backend of lckernels that ran; empty for a peer.
        extra_bytes: Peak resident memory of a call above inputs and results; of a backward with its forward.
        note: What the provider computes, where that is not the op.
        left_out: In our row: peer name -> why it was not timed.
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
    peak_rates: dict[str, float] = field(default_factory=dict)
    percent_of: tuple[str, ...] = ()
    comparable: tuple[str, ...] = ()
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
        """The rate in percent of the best of these peak rates; None if none was measured."""
        best = max((self.peak_rates[name] for name in names if name in self.peak_rates), default=None)
        return 100 * self.rate / best if best else None


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def to_json(row: Row) -> dict[str, Any]:
    """The row as it is stored, with machine, versions, commit and date.

    Raises:
        ValueError: The result was not checked or did not pass, or the unit is unsupported.
    """
    if row.check is None or not row.check.passed:
        why = "was not checked" if row.check is None else f"is off by {row.check.error:.3g}"
        raise ValueError(f"no row for {row.provider} on {row.op} {row.direction}: its result {why}")
    if row.unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {row.unit!r}")
    stored = {_STORED_NAMES.get(name, name): value for name, value in asdict(row).items()}
    percents = {"percent": row.percent(row.percent_of), "percent_alike": row.percent(row.comparable)}
    return (
        stored
        | {"rate": row.rate, **percents}
        | {"machine": machine(row.device), "versions": versions(), **commit(), "date": _now()}
    )


def append(rows: list[Row], folder: Path) -> None:
    """Appends each row to the file of its suite; nothing is written if one of them is rejected."""
    lines = [(row.suite, json.dumps(to_json(row))) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    for suite, line in lines:
        with (folder / f"{suite}.jsonl").open("a") as file:
            file.write(line + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@lru_cache
def machine(device: str = "cpu") -> dict[str, Any]:
    """CPU model, cores, threads in use, instruction set; on cuda the GPU's name."""
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
    return subprocess.run(
        ["git", *args], cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
