"""Checks and times overlap_merge and windowed_attention on a GPU: part of bench/gpu.sh."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.cases.attention import AttentionCase
from bench.cases.overlap import OverlapCase
from bench.gpu.comparison import (
    Results,
    compare,
    copy_probe,
    parser_of,
    product_probe,
    time_each,
    working_calls,
)
from bench.harness.check import Tensors
from bench.harness.comparison import OWN, chosen_backend
from bench.harness.timing import Clock
from bench.peers.attention import Peer, sdpa_causal, sdpa_cudnn, sdpa_mask, torch_flash
from bench.peers.libraries import flex
from bench.peers.overlap import Run, merge_by_fold, merge_by_gather, merge_by_index_add
from bench.suites import attention, overlap
from lckernels.backends import registry
from lckernels.backends.registry import Problem

COPY, PRODUCT = "torch copy_", "torch matmul"
OWN_TMA = f"{OWN} tma"  # the Triton kernels, whole tiles through tensor descriptors
PRODUCT_SIZE = 8192  # of the matrices whose product is the peak rate of attention

MERGE_CASES = [
    OverlapCase(131072, 256, 1024, torch.bfloat16),
    OverlapCase(131072, 256, 4096, torch.bfloat16),
    OverlapCase(131072, 256, 1024, torch.float32),
]
MERGE_TINY = [OverlapCase(1024, 256, 16, torch.float32)]

_WIDE = {"num_heads": 64, "num_kv_heads": 8, "head_dim": 128}
# The published anchor first; then narrow windows, where memory bounds, other head dims, fp32, full causal.
ATTENTION_CASES = [
    AttentionCase(32768, (1023, 0), torch.bfloat16, **_WIDE),
    AttentionCase(8192, (1023, 0), torch.bfloat16, **_WIDE),
    AttentionCase(32768, (4095, 0), torch.bfloat16, **_WIDE),
    AttentionCase(32768, (255, 0), torch.bfloat16, **_WIDE),
    AttentionCase(131072, (1023, 0), torch.bfloat16, num_heads=16, num_kv_heads=2, head_dim=128),
    AttentionCase(32768, (63, 63), torch.bfloat16, num_heads=12, num_kv_heads=12),
    AttentionCase(16384, (511, 0), torch.bfloat16, num_heads=16, num_kv_heads=16),
    AttentionCase(16384, (4095, 0), torch.bfloat16, num_heads=8, num_kv_heads=4, head_dim=256),
    AttentionCase(8192, (-1, 0), torch.bfloat16, num_heads=16, num_kv_heads=16, head_dim=128),
    AttentionCase(8192, (511, 0), torch.float32),
]
DECODE_CASES = [
    AttentionCase(131072, (-1, 0), torch.bfloat16, num_heads=32, num_kv_heads=8, head_dim=128, num_queries=1),
    AttentionCase(32768, (4095, 0), torch.bfloat16, 16, 32, 8, 128, num_queries=1),
]
ATTENTION_TINY = [AttentionCase(64, (15, 0), torch.float32, num_heads=4, num_kv_heads=2, head_dim=16)]


def time_merge(case: OverlapCase, direction: str, device: str, clock: Clock, folder: Path) -> int:
    """Stores the rows of one case; returns the number of wrong results."""
    op = "overlap_merge"
    x, grad = (t.to(device) for t in overlap.make_inputs(op, case))

    def maker(build: Callable[[], Run]) -> Callable[[], Results]:
        def built() -> Results:
            call = overlap.as_call(build(), direction, x, grad)
            return lambda: (call(),)

        return built

    calls = working_calls(
        {
            OWN: maker(lambda: overlap.own_run(op, case, device)),
            "index_add": maker(lambda: merge_by_index_add(case, device)),
            "fold": maker(lambda: merge_by_fold(case, device)),
            "compiled gather": maker(lambda: merge_by_gather(case, device)),
        }
    )
    want = (overlap.truth(op, direction, case, x if direction == "forward" else grad),)
    backend = chosen_backend(op, x)
    subject = overlap.subject_of("gpu_overlap_merge", op, direction, case, backend, device)
    probes = {COPY: copy_probe(case.traffic(op, direction).total, device)}
    baseline = _checked(calls["index_add"]())
    return compare(subject, calls, want, baseline, probes, clock, folder, _checked)


def _checked(results: Tensors) -> Tensors:
    return tuple(overlap.checked_columns(x) for x in results)


def time_attention(case: AttentionCase, direction: str, device: str, clock: Clock, folder: Path) -> int:
    """Stores the rows of one case; returns the number of wrong results."""
    inputs = tuple(x.to(device) for x in attention.make_inputs(case))
    by_head = attention.by_head(inputs)

    def maker(build: Callable[[], Peer]) -> Callable[[], Results]:
        def built() -> Results:
            peer = build()
            call = attention.as_call(peer.attend, direction, by_head if peer.by_head else inputs)
            return (lambda: tuple(t.transpose(1, 2) for t in call())) if peer.by_head else call

        return built

    providers = {
        OWN: maker(lambda: Peer(attention.own_attention(case), by_head=False)),
        "sdpa_mask": maker(lambda: sdpa_mask(case, direction, device)),
        "sdpa_causal": maker(lambda: sdpa_causal(case, direction, device)),
    }
    if device == "cuda":
        if registry.settings().get("backend", "triton") == "triton":
            providers[OWN_TMA] = lambda: through_descriptors(providers[OWN](), torch.device(device))
        providers["flex"] = maker(lambda: flex(case, direction, device))
        providers["sdpa_cudnn"] = maker(lambda: sdpa_cudnn(case, direction, device))
        providers["torch_flash"] = maker(lambda: torch_flash(case, direction, device))
    calls = working_calls(providers)
    want, baseline = (route(case, direction, inputs) for route in (attention.truth, attention.baseline))
    backend = ""
    if OWN in calls:
        backend = chosen_backend("windowed_attention", *inputs[:3], score_bytes=case.score_bytes)
    subject = attention.subject_of("gpu_attention", direction, case, backend, device)
    if direction == "decode":
        probes = {COPY: copy_probe(int(subject.work), device)}
    else:
        size = min(PRODUCT_SIZE, case.seqlen)
        probes = {PRODUCT: product_probe(size, case.dtype, device)}
    return compare(subject, calls, want, baseline, probes, clock, folder)


def through_descriptors(call: Results, device: torch.device) -> Results:
    """The call with tiles that the Triton kernels read through tensor descriptors.

    Raises:
        ValueError: The device has no TMA.
        ModuleNotFoundError: Triton is not installed.
    """
    from lckernels.backends.triton import tiles, tuned

    chip = tiles.chip_of(device)
    if not chip.has_tma:
        raise ValueError(f"{chip.arch} has no TMA")
    described = tiles.with_descriptors({**tiles.TABLE, **tuned.tiles(chip)})

    def run() -> Tensors:
        with tuned.trying(described):
            return call()

    return run


def is_supported(job: tuple[Callable[..., int], AttentionCase | OverlapCase, str]) -> bool:
    """Whether the backend selected by LCKERNELS, if any, supports the case; if not, the reason is printed."""
    backend, case = registry.settings().get("backend"), job[1]
    if backend is None or isinstance(case, OverlapCase):
        return True
    shape = (1, case.seqlen, case.num_heads, case.head_dim)
    problem = Problem("windowed_attention", "cuda", case.dtype, (shape,) * 3)
    why = registry.backends()[backend].reasons(problem)
    if why:
        print(f"{job[2]} {case.label} is left to other backends: {'; '.join(why)}")
    return not why


def jobs_of(section: str, tiny: bool) -> list[tuple[Callable[..., int], AttentionCase | OverlapCase, str]]:
    """The timing function, case and direction of each measurement of a section."""
    if section == "merge":
        cases = MERGE_TINY if tiny else MERGE_CASES
        return [(time_merge, case, direction) for case in cases for direction in ("forward", "backward")]
    jobs = [(time_attention, case, section) for case in (ATTENTION_TINY if tiny else ATTENTION_CASES)]
    if section == "forward" and not tiny:
        jobs += [(time_attention, case, "decode") for case in DECODE_CASES]
    return list(filter(is_supported, jobs))


def main(arguments: list[str] | None = None) -> int:
    """Times one section; 1 if a result was wrong or a case failed."""
    parser = parser_of(__doc__)
    parser.add_argument("section", choices=["merge", "forward", "backward"])
    options = parser.parse_args(arguments)
    jobs = [
        (f"{options.section} {direction} {case.label}", partial(time_case, case, direction))
        for time_case, case, direction in jobs_of(options.section, options.tiny)
    ]
    if not jobs:
        print(f"{options.section}: no case is supported")
        return 1
    return 1 if time_each(jobs, options.device, options.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
