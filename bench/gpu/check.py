"""Every op on a device against the reference on the CPU, forward and backward: part of bench/gpu.sh."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from helpers.attention_problem import moved  # gpu.sh puts tests/ on the path
from helpers.cases import CASES, AttentionCase
from torch import Tensor

from bench.harness.check import check
from lckernels import (
    chunked_attention,
    merge_attention_states,
    overlap_merge,
    overlap_split,
    plan_chunks,
    reference,
)
from lckernels.backends import registry
from lckernels.dtypes import compute_dtype
from lckernels.fields import flat_options
from lckernels.options import AttentionOptions

WEIGHTS = ("uniform", "triangular", "hann", "crop", "explicit")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_UNSEEN_LSE = -30.0  # replaces the -inf of a row without visible keys, so that differences are finite

Function = Callable[..., tuple[Tensor, ...]]
# Name, own op on a device, definition, inputs on the CPU.
Job = tuple[str, Callable[[str], Function], Function, list[Tensor]]


def with_gradients(function: Function, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The function's outputs and, weighted with fixed noise, their gradients for each input."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    generator = torch.Generator().manual_seed(1)
    finite = [x.nan_to_num(neginf=_UNSEEN_LSE) for x in outputs]
    noise = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in finite]
    total = sum(
        ((x * y).sum() for x, y in zip(finite, noise, strict=True)), start=torch.zeros(()).to(leaves[0])
    )
    gradients = torch.autograd.grad(total, leaves)
    return tuple(x.detach() for x in finite) + gradients


@contextmanager
def forced(backend: str | None) -> Iterator[None]:
    """Every op runs on the backend, as with LCKERNELS=backend=...; None changes nothing."""
    if backend is None:
        yield
        return
    settings = registry.settings()
    before = dict(settings)
    settings["backend"] = backend
    try:
        yield
    finally:
        settings.clear()
        settings.update(before)


def compare(
    name: str,
    own: Callable[[str], Function],
    definition: Function,
    inputs: list[Tensor],
    device: str,
    backend: str | None,
) -> None:
    """Compares the op on the device with the definition in fp64; the bound is twice the error of the CPU op.

    Raises:
        BackendError: The selected backend does not support the problem.
    """
    with forced(backend):
        actual = with_gradients(own(device), [x.to(device) for x in inputs])
    truth = with_gradients(definition, [x.double() for x in inputs])
    baseline = with_gradients(own("cpu"), inputs)
    check(name, tuple(x.cpu() for x in actual), truth, baseline)


def overlap_jobs() -> Iterator[Job]:
    plan = plan_chunks([150, 20, 333], 64, 24, num_leading=1, num_trailing=1)

    def merge(function: Function, mode: str, device: str = "cpu") -> Function:
        there = plan.to(device)
        return lambda chunks, *weights: (function(chunks, there, *(weights or (mode,))),)

    def split(function: Function, device: str = "cpu") -> Function:
        there = plan.to(device)
        return lambda sequence: (function(sequence, there),)

    for dtype in DTYPES:
        generator = torch.Generator().manual_seed(0)
        chunks = torch.randn(plan.num_chunks, plan.chunk_len, 24, generator=generator).to(dtype)
        sequence = torch.randn(plan.total_len, 24, generator=generator).to(dtype)
        explicit = torch.rand(plan.num_chunks, plan.chunk_len, generator=generator) + 0.1
        for mode in WEIGHTS:
            inputs = [chunks, explicit] if mode == "explicit" else [chunks]
            own, definition = partial(merge, overlap_merge, mode), merge(reference.overlap_merge, mode)
            yield f"overlap_merge {mode} {dtype}", own, definition, inputs
        own, definition = partial(split, overlap_split), split(reference.overlap_split)
        yield f"overlap_split {dtype}", own, definition, [sequence]


# Of every size of kernel, with and without features.
WIDE_CASES = [
    replace(case, name=f"{case.name}, head dim {head_dim}", head_dim=head_dim, head_dim_v=head_dim)
    for case in CASES
    if case.name in ("primes", "above_two_tiles", "dropout_all_scores")
    for head_dim in (64, 96, 128, 192, 256)
]


def chunked_jobs() -> Iterator[Job]:
    plan = plan_chunks([150, 20, 333], 64, 24)

    def attend(function: Function, device: str = "cpu") -> Function:
        there = plan.to(device)

        def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
            result = function(q, k, v, there, "triangular")
            return (result[0] if isinstance(result, tuple) else result,)

        return run

    for dtype in DTYPES:
        for head_dim in (16, 64, 128):
            generator = torch.Generator().manual_seed(0)
            shapes = [(plan.total_len, heads, head_dim) for heads in (4, 2, 2)]
            inputs = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
            own, definition = partial(attend, chunked_attention), attend(reference.chunked_attention)
            yield f"chunked_attention head dim {head_dim} {dtype}", own, definition, inputs


def attention_jobs() -> Iterator[Job]:
    for dtype in DTYPES:
        for case in (*CASES, *WIDE_CASES):
            torch.manual_seed(0)
            q, k, v = case.tensors(dtype)
            name = f"windowed_attention {case.name} {dtype}"
            yield name, partial(_attend, case), _define(case), [q, k, v]


def _options(case: AttentionCase, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments of the reference, with tensors on the device; scores in fp64 for fp64."""
    torch.manual_seed(0)
    score_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        "window_size": case.window_size,
        "softmax_scale": case.head_dim**-0.5,
        "layout": moved(case.layout(case), device),
        "score": moved(case.score(case, torch.float32), device, score_dtype),
        "dropout_p": case.dropout_p,
        "seed": torch.tensor([-0x123456789ABCDEF], device=device) if case.dropout_p else None,
    }


def _attend(case: AttentionCase, device: str) -> Function:
    def run(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        options = flat_options(AttentionOptions(**_options(case, device, q.dtype)))
        return torch.ops.lckernels.windowed_attention(q, k, v, *options, None)

    return run


def _define(case: AttentionCase) -> Function:
    return lambda q, k, v: reference.windowed_attention(q, k, v, **_options(case, "cpu", q.dtype))


def states_jobs() -> Iterator[Job]:
    def own(device: str) -> Function:
        return lambda *states: merge_attention_states(states[:3], states[3:])

    def definition(*states: Tensor) -> tuple[Tensor, ...]:
        return reference.merge_attention_states(states[:3], states[3:])

    for dtype in DTYPES:
        generator = torch.Generator().manual_seed(0)
        outs = [torch.randn(2, 9, 3, 8, generator=generator).to(dtype) for _ in range(3)]
        lse_dtype = compute_dtype(dtype)
        lses = [torch.randn(2, 3, 9, generator=generator).to(lse_dtype) for _ in range(3)]
        lses[0][:, :, 4] = -torch.inf
        yield f"merge_attention_states {dtype}", own, definition, outs + lses


def main(arguments: list[str] | None = None) -> int:
    """Runs every check, prints the failures and the count; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--backend", choices=registry.BACKENDS, help="check only this backend, on what it supports"
    )
    parser.add_argument("--tiny", action="store_true", help="one dtype: fp32, with --backend cuda bf16")
    options = parser.parse_args(arguments)
    makers = (overlap_jobs, attention_jobs, chunked_jobs, states_jobs)
    jobs = [job for jobs_of in makers for job in jobs_of()]
    if options.tiny:
        kept = "bfloat16" if options.backend == "cuda" else "float32"
        jobs = [job for job in jobs if job[0].endswith(kept)]
    failures, left, taken_of = 0, 0, dict.fromkeys((name.split()[0] for name, *_ in jobs), 0)
    for name, *job in jobs:
        try:
            compare(name, *job, options.device, options.backend)
        except registry.BackendError as error:
            left += 1
            print(f"left {name}: {str(error).splitlines()[-1].strip()}")
            continue
        except Exception as error:  # the other checks still run
            failures += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}")
        taken_of[name.split()[0]] += 1
    idle = [op for op, count in taken_of.items() if not count]
    for op in idle:
        print(f"FAILED {op}: no problem of it was taken")
    taken = len(jobs) - left
    print(f"{taken - failures} of {taken} checks passed on {options.device}, {left} left to other backends")
    return 1 if failures or idle or not taken else 0


if __name__ == "__main__":
    sys.exit(main())
