"""Whole models on a GPU, patched against transformers' own attention: part of bench/gpu.sh."""

import argparse
import gc
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from bench import models, rows, smollm2
from bench.check import truth_dtype
from bench.contest import OWN
from bench.gpu_contest import Ceiling, Results, admit, contest
from bench.model_cases import K, ModelCase
from bench.model_contest import subject_of
from bench.model_peers import FLOOR, PEERS, Build, own
from bench.timing import Clock, cuda_clock, wall_clock

# SmolLM2's weights where they are installed, else random ones in its shape.
CASES = [
    ModelCase("mistral", 8 * K, torch.bfloat16, 30, real=True),
    ModelCase("mistral", 32 * K, torch.bfloat16, 30, real=True),
    ModelCase("modernbert", 8 * K, torch.bfloat16, 22),
    ModelCase("gpt_oss", 8 * K, torch.bfloat16, 4),
]
TINY = [ModelCase(family, 64, torch.float32, 2) for family in ("mistral", "gpt_oss")]


def time_model(case: ModelCase, device: str, clock: Clock, folder: Path) -> int:
    """Rows of one model; the number of wrong results."""
    model, ids = models.build(case)
    model, ids = model.to(device), ids.to(device)
    with ExitStack() as stack:

        def entrant(build: Build) -> Results:
            peer = build(model, case, stack)
            return lambda: models.run(peer.model, ids)

        builds = {OWN: own, **PEERS}
        calls = admit({name: lambda build=build: entrant(build) for name, build in builds.items()})
        floor = calls.pop(FLOOR)
        plain = models.with_attention(model, models.BLOCKS)
        honest = models.run(plain, ids)
        want = models.run(models.in_dtype(plain, truth_dtype(case.dtype)), ids)
        subject = subject_of(case, model, "gpu_models")
        return contest(subject, calls, want, honest, {FLOOR: Ceiling(floor, subject.work)}, clock, folder)


def main(arguments: list[str] | None = None) -> int:
    """Times every model; 1 if a result was wrong or a model failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rows", type=Path, default=rows.RESULTS, help="folder for the rows")
    parser.add_argument("--tiny", action="store_true", help="small models")
    options = parser.parse_args(arguments)
    clock = cuda_clock() if options.device == "cuda" else wall_clock
    failures = 0
    for case in TINY if options.tiny else CASES:
        if case.real and (why := smollm2.missing()):
            print(f"random weights: {why}")
            case = replace(case, real=False)
        print(case.label, flush=True)
        try:
            failures += time_model(case, options.device, clock, options.rows)
        except Exception as error:  # the other models still run
            failures += 1
            print(f"  FAILED {type(error).__name__}: {error}")
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
