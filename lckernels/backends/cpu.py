"""C++ on the CPU: the private ops of _C.so (csrc/cpu), with their outputs allocated here."""

from pathlib import Path

import torch
from torch import Tensor

from lckernels.checks import weights_error
from lckernels.dispatch import Problem, settings
from lckernels.plan import PlanArgs

_LIBRARY = Path(__file__).resolve().parent.parent / "_C.so"
_OPS = ("overlap_merge", "overlap_split")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _load() -> str:
    """Loads _C.so once; why it cannot be used, or empty."""
    if not _LIBRARY.exists():
        return "lckernels/_C.so was not built (installing lckernels with a C++ compiler builds it)"
    torch.ops.load_library(_LIBRARY)
    isa = settings().get("isa")
    if isa is not None:
        torch.ops.lckernels_cpu.set_isa(isa)
    return ""


_UNAVAILABLE = _load()


def unavailable() -> str:
    """Why this backend cannot run here; empty when it can."""
    return _UNAVAILABLE


def reasons(problem: Problem) -> list[str]:
    """Why this backend cannot solve the problem; empty when it can."""
    if _UNAVAILABLE:
        return [_UNAVAILABLE]
    found = []
    if problem.device_type != "cpu":
        found.append(f"it serves tensors on the CPU, not on {problem.device_type}")
    if problem.op not in _OPS:
        found.append(f"it has no kernel for {problem.op}")
    if problem.dtype not in _DTYPES:
        found.append(f"it has no kernel for {problem.dtype}")
    return found


def overlap_merge(chunks: Tensor, weights: str | Tensor, plan: PlanArgs) -> Tensor:
    mode, table = _weights(weights)
    out = chunks.new_empty(plan.total_len, chunks.shape[2])
    bad = torch.ops.lckernels_cpu.overlap_gather(
        _rows(chunks), table, plan.segments, plan.tile_segments, mode, True, out
    )
    if bad >= 0 and table is not None:
        raise weights_error(bad)
    return out


def overlap_merge_backward(
    dout: Tensor, chunks: Tensor | None, weights: str | Tensor, plan: PlanArgs
) -> tuple[Tensor, Tensor | None]:
    """dchunks, and dweights where `chunks` is given."""
    mode, table = _weights(weights)
    dout = _rows(dout)
    dchunks = _scatter(dout, table, plan, mode)
    if chunks is None:
        return dchunks, None
    dweights = torch.zeros_like(table)
    torch.ops.lckernels_cpu.overlap_weight_grad(
        dout, _rows(chunks), table, plan.segments, plan.tile_segments, dweights
    )
    return dchunks, dweights


def overlap_split(sequence: Tensor, plan: PlanArgs) -> Tensor:
    return _scatter(_rows(sequence), None, plan, "add")


def overlap_split_backward(dchunks: Tensor, plan: PlanArgs) -> Tensor:
    out = dchunks.new_empty(plan.total_len, dchunks.shape[2])
    torch.ops.lckernels_cpu.overlap_gather(
        _rows(dchunks), None, plan.segments, plan.tile_segments, "add", True, out
    )
    return out


def _scatter(sequence: Tensor, table: Tensor | None, plan: PlanArgs, mode: str) -> Tensor:
    out = sequence.new_empty(plan.num_chunks, plan.chunk_len, sequence.shape[1])
    torch.ops.lckernels_cpu.overlap_scatter(
        sequence, table, plan.segments, plan.tile_segments, mode, True, out
    )
    return out


def _weights(weights: str | Tensor) -> tuple[str, Tensor | None]:
    return ("explicit", weights.contiguous()) if isinstance(weights, Tensor) else (weights, None)


def _rows(x: Tensor) -> Tensor:
    """x with a contiguous last dim; copied once if it has none."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
