"""overlap_merge and overlap_split: inputs, expected results and calls."""

import torch
from torch import Tensor

from bench.cases.overlap import OverlapCase
from bench.harness.check import truth_dtype
from bench.harness.comparison import Subject
from bench.harness.rows import dtype_name
from bench.harness.timing import Call
from bench.peers.overlap import Run, merge_weights, positions
from lckernels import overlap_merge, overlap_split, reference

OPS = ("overlap_merge", "overlap_split")


def own_run(op: str, case: OverlapCase, device: torch.device | str = "cpu") -> Run:
    """The public op."""
    plan = case.plan.to(device)
    if op == "overlap_merge":
        return lambda chunks: overlap_merge(chunks, plan, case.weights)
    return lambda sequence: overlap_split(sequence, plan)


def make_inputs(op: str, case: OverlapCase) -> tuple[Tensor, Tensor]:
    """The op's input and the gradient of its output, normally distributed."""
    generator = torch.Generator().manual_seed(0)
    chunks = torch.randn(case.num_chunks, case.chunk_len, case.dim, generator=generator).to(case.dtype)
    sequence = torch.randn(case.total_len, case.dim, generator=generator).to(case.dtype)
    return (chunks, sequence) if op == "overlap_merge" else (sequence, chunks)


def checked_columns(x: Tensor) -> Tensor:
    """The columns that are compared: all, or every 16th above 2^26 elements; columns are independent."""
    return x if x.numel() <= 2**26 else x[..., ::16]


def truth(op: str, direction: str, case: OverlapCase, given: Tensor) -> Tensor:
    """The checked columns by the reference in higher precision, of the input or of the output's gradient.

    A backward is the adjoint of its forward, so it is a split or a merge again.
    """
    dtype = truth_dtype(case.dtype)
    given = checked_columns(given).to(dtype)
    if op == "overlap_split" and direction == "forward":
        return reference.overlap_split(given, case.plan)
    if op == "overlap_merge" and direction == "forward":
        return reference.overlap_merge(given, case.plan, case.weights)
    if op == "overlap_merge":
        return reference.overlap_split(given, case.plan).mul_(
            merge_weights(case.plan, case.weights, dtype)[..., None].to(given.device)
        )
    copies = torch.bincount(positions(case.plan).flatten())[:, None].to(given.device)
    return reference.overlap_merge(given, case.plan, "uniform").mul_(copies)


def as_call(run: Run, direction: str, x: Tensor, grad: Tensor) -> Call:
    """The forward on x, or only the backward of a forward that runs here once."""
    if direction == "forward":
        return lambda: run(x)
    leaf = x.detach().requires_grad_()
    out = run(leaf)
    return lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True)[0]


def warm_call(op: str, direction: str, case: OverlapCase, given: Tensor) -> tuple[Call, Tensor]:
    """The op of the CPU backend with an output that was written before, and that output."""
    mode = case.weights if op == "overlap_merge" else "add"
    args = (given, None, case.plan.segments, case.plan.tile_segments, mode)
    if (op == "overlap_merge") == (direction == "forward"):
        out = given.new_zeros(case.total_len, case.dim)
        return lambda: torch.ops.lckernels_cpu.overlap_gather(*args, out), out
    out = given.new_zeros(case.num_chunks, case.chunk_len, case.dim)
    return lambda: torch.ops.lckernels_cpu.overlap_scatter(*args, out), out


def subject_of(
    suite: str, op: str, direction: str, case: OverlapCase, backend: str, device: str = "cpu"
) -> Subject:
    """The fields that all rows of one case share; the work is the bytes that must move."""
    return Subject(
        suite=suite,
        op=op,
        direction=direction,
        shape=case.shape(op),
        dtype=dtype_name(case.dtype),
        work=case.traffic(op, direction).total,
        unit="GB/s",
        backend=backend,
        device=device,
    )
