"""The time of a Triton kernel's first call, and the host time of each later call.

`python -m bench.compile.triton_start` times them on the GPU: the first call of a process with an empty Triton
cache, the first call with a filled cache, and a later call without waiting for the GPU. With `--target sm_90`
the kernels are compiled for an absent GPU and launches do nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import torch

from bench.compile.triton_compile import TARGETS, CompileOnly
from bench.compile.triton_variants import ChunkedVariant, Variant

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("forward", 64, torch.bfloat16),
        Variant("backward", 64, torch.bfloat16),
        Variant("forward", 128, torch.bfloat16),
        Variant("backward", 128, torch.bfloat16),
        Variant("forward", 128, torch.bfloat16, (-1, 0), 1, 32, 8),
        Variant("forward", 128, torch.bfloat16, num_kv_heads=2, features="score"),
        ChunkedVariant("forward", 64, torch.bfloat16),
        ChunkedVariant("backward", 64, torch.bfloat16),
    )
}
_CALLS, _ROUNDS = 50, 7


def measure(name: str, target: str | None) -> dict[str, float]:
    """Seconds of the first call of this process, and host seconds of a later one."""
    device = "meta" if target else "cuda"
    if target:
        CompileOnly(target).activate()
    call = VARIANTS[name].call(device)
    wait = (lambda: None) if target else torch.cuda.synchronize
    begin = time.perf_counter()
    call()
    wait()
    first = time.perf_counter() - begin
    rounds = []
    for _ in range(_ROUNDS):
        wait()
        begin = time.perf_counter()
        for _ in range(_CALLS):
            call()
        rounds.append((time.perf_counter() - begin) / _CALLS)
    wait()
    return {"first": first, "later": median(rounds)}


def measured_apart(name: str, target: str | None, cache: str) -> dict[str, float]:
    """The same in a new process with that cache. Raises RuntimeError with its stderr if it failed."""
    command = [sys.executable, "-m", "bench.compile.triton_start", "--measure", name]
    command += ["--target", target] if target else []
    environment = {**os.environ, "TRITON_CACHE_DIR": cache}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", choices=TARGETS, help="compile for this absent GPU")
    parser.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="variants whose names begin with this")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, options.target)))
        return 0
    print("| variant | first call, s | first call, cache warm, s | later call on the host, µs |")
    print("|---|---|---|---|", flush=True)
    for name in VARIANTS:
        if not name.startswith(options.only):
            continue
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (measured_apart(name, options.target, cache) for _ in range(2))
        later = 1e6 * warm["later"]
        print(f"| {name} | {cold['first']:.2f} | {warm['first']:.2f} | {later:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.exit(main())
