"""Whole models on a GPU, patched against transformers' own attention: part of bench/gpu.sh."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.cases import smollm2
from bench.cases.models import K, ModelCase
from bench.gpu.comparison import Probe, Results, compare, parser_of, time_each, working_calls
from bench.harness.check import truth_dtype
from bench.harness.comparison import OWN
from bench.harness.timing import Clock
from bench.peers import model_attention
from bench.peers.models import FLOOR, PEERS, Build, own
from bench.suites.model_comparison import subject_of

# SmolLM2's weights if they are installed, else random ones in its shape.
CASES = [
    ModelCase("mistral", 8 * K, torch.bfloat16, 30, real=True),
    ModelCase("mistral", 32 * K, torch.bfloat16, 30, real=True),
    ModelCase("modernbert", 8 * K, torch.bfloat16, 22),
    ModelCase("gpt_oss", 8 * K, torch.bfloat16, 4),
]
TINY = [ModelCase(family, 64, torch.float32, 2) for family in ("mistral", "gpt_oss")]


def time_model(case: ModelCase, device: str, clock: Clock, folder: Path) -> int:
    """Stores the rows of one model; returns the number of wrong results."""
    model, ids = model_attention.build(case)
    model, ids = model.to(device), ids.to(device)
    with ExitStack() as stack:

        def make(build: Build) -> Results:
            peer = build(model, case, stack)
            return lambda: model_attention.run(peer.model, ids)

        builds = {OWN: own, **PEERS}
        calls = working_calls({name: partial(make, build) for name, build in builds.items()})
        floor = calls.pop(FLOOR)
        plain = model_attention.with_attention(model, model_attention.BLOCKS)
        baseline = model_attention.run(plain, ids)
        want = model_attention.run(model_attention.in_dtype(plain, truth_dtype(case.dtype)), ids)
        subject = subject_of(case, model, "gpu_models")
        return compare(subject, calls, want, baseline, {FLOOR: Probe(floor, subject.work)}, clock, folder)


def main(arguments: list[str] | None = None) -> int:
    """Times every model; 1 if a result was wrong or a model failed."""
    options = parser_of(__doc__).parse_args(arguments)
    cases = TINY if options.tiny else CASES
    if not options.tiny and (why := smollm2.missing()):
        print(f"random weights: {why}")
        cases = [replace(case, real=False) for case in cases]
    jobs = [(case.label, partial(time_model, case)) for case in cases]
    return 1 if time_each(jobs, options.device, options.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
