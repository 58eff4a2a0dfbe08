"""The machine's peak rates, measured in the same run: FLOP/s, bytes/s of copies and of reads."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from bench.harness.timing import Call, Timing

try:
    from lckernels import _host
except ImportError:  # installed without a compiler: only torch's copies are timed
    _host = None

_PROBE_SECONDS = 0.02
READ = "read"
# torch's idle threads spin for about a millisecond and would share the cores with a probe.
_SETTLE_SECONDS = 0.003
_FLOP_NAMES = {torch.float32: ("fp32",), torch.float64: ("fp64",), torch.bfloat16: ("bf16", "fp32")}

# Kind of output -> pages that a comparable copy writes to, and torch's copy with such an output.
_PAGES = {"fresh": "fresh_huge", "warm": "warm"}
_TORCH_COPIES = {"fresh": "torch clone", "warm": "torch copy_"}


class Traffic(NamedTuple):
    """Bytes an op must at least read and write."""

    read: int
    written: int

    @property
    def total(self) -> int:
        return self.read + self.written


def torch_copies(traffic: Traffic) -> dict[str, Call]:
    """torch's copies of as many bytes: into a new tensor, and into an existing one."""
    source = torch.ones(traffic.total // 2, dtype=torch.uint8)
    target = torch.ones_like(source)
    return {_TORCH_COPIES["fresh"]: source.clone, _TORCH_COPIES["warm"]: lambda: target.copy_(source)}


def copy_probes(traffic: Traffic) -> dict[str, Callable[[], float]]:
    """Single passes of the compiled probe, each returning its seconds.

    "copy" reads and writes half of the bytes each, "same traffic" reads and writes what the op does.
    """
    if _host is None:
        return {}
    half, threads = traffic.total // 2, torch.get_num_threads()
    found = {}
    for pages in _PAGES.values():
        for kind, sizes in (("copy", (half, half)), ("same traffic", traffic)):
            probe = _host.CopyProbe(*sizes, getattr(_host.Pages, pages), threads)
            for stores in ("ordinary", "streaming"):
                found[f"{kind}, {pages}, {stores}"] = _one_pass(probe, getattr(_host.Stores, stores))
    return found


def _one_pass(probe: object, stores: object) -> Callable[[], float]:
    def seconds() -> float:
        time.sleep(_SETTLE_SECONDS)
        return probe.seconds(stores)

    return seconds


def copy_names(output: str) -> list[str]:
    """Names of the copies of as many bytes with that kind of output, "fresh" or "warm"."""
    return [
        _TORCH_COPIES[output],
        *(f"copy, {_PAGES[output]}, {stores}" for stores in ("ordinary", "streaming")),
    ]


def same_traffic_names(output: str) -> list[str]:
    """Names of the probes with the op's own reads and writes and that kind of output."""
    return [f"same traffic, {_PAGES[output]}, {stores}" for stores in ("ordinary", "streaming")]


def rates(names: list[str], work: float, timings: dict[str, Timing]) -> dict[str, float]:
    """Work per second of those that were timed."""
    return {name: work / timings[name].median for name in names if name in timings}


def peaks(names: list[str], work: float, timings: dict[str, Timing]) -> dict[str, float]:
    """The same from the 20th percentile of the times: other load must not lower a peak rate."""
    return {name: work / timings[name].p20 for name in names if name in timings}


def read_probe(size: int) -> dict[str, Callable[[], float]]:
    """Name -> the seconds to read `size` bytes from memory; empty without the compiled probe."""
    if _host is None:
        return {}

    def seconds() -> float:
        time.sleep(_SETTLE_SECONDS)
        return size / _host.read_bandwidth(size, torch.get_num_threads(), _PROBE_SECONDS).median

    return {READ: seconds}


def flop_probes(dtype: torch.dtype, flops: float) -> dict[str, Callable[[], float]]:
    """Name -> the seconds for `flops` by each FMA instruction that supports the dtype, without AMX."""
    return _flop_probes(_FLOP_NAMES.get(dtype, ("fp32",)), flops)


def amx_probe(dtype: torch.dtype, flops: float) -> dict[str, Callable[[], float]]:
    """The same by AMX, if the machine has it and it supports the dtype."""
    return _flop_probes(("bf16_amx",) if dtype == torch.bfloat16 else (), flops)


def _flop_probes(names: tuple[str, ...], flops: float) -> dict[str, Callable[[], float]]:
    if _host is None:
        return {}

    def probe(name: str) -> Callable[[], float]:
        def seconds() -> float:
            time.sleep(_SETTLE_SECONDS)
            return flops / _host.peak_flops(name, torch.get_num_threads(), _PROBE_SECONDS).best

        return seconds

    there = [name for name in names if name in _host.peak_dtypes()]
    return {_host.peak_flops(name, 1, 1e-4).method: probe(name) for name in there}
