"""Triton's kernels compiled ahead of time for a GPU that is absent: registers, spills, shared memory.

`python -m bench.compile.triton_compile` prints the table for sm_90; the exit status is 1 if a kernel has a
fault. `--target sm_80|sm_100|gfx942` selects another chip, `--all` every variant, `--any` ignores faults,
`--write FILE` stores the table.
"""

import argparse
import os
import re
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from bench.compile import sass
from bench.compile.triton_variants import FEATURES, AnyVariant, variants

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "sm_100": ("cuda", 100, 32),
           "gfx942": ("hip", "gfx942", 64)}  # fmt: skip
SHARED_MEMORY = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
PROCESSES = 2


class Compiled(NamedTuple):
    """One compiled kernel of a variant."""

    variant: str
    kernel: str
    num_warps: int
    shared: int  # bytes
    registers: int
    spills: int  # instructions that load or store local memory
    step_spills: int  # of them in innermost loops
    instructions: int
    wgmma: int  # tensor-core products, per warpgroup (sm_90)
    mma: int  # and per warp
    copies: int  # asynchronous, to shared memory, by threads
    tma: int  # and of whole tiles
    seconds: float  # that Triton took for all kernels of the variant

    @property
    def cells(self) -> list[str]:
        return [str(x) for x in self[:-1]] + [f"{self.seconds:.1f}"]


# The largest head dim whose tiles have the 64 rows of wgmma, where that is not 256.
_WIDEST = {
    "attention_backward_kv_kernel": 128,
    "chunked_forward_kernel": 128,
    "chunked_backward_q_kernel": 128,
    "chunked_backward_kv_kernel": 64,
}
_HEADER = (
    "variant", "kernel", "warps", "shared", "registers", "spills", "in steps", "instructions", "wgmma", "mma",
    "copies", "tma", "s",
)  # fmt: skip


class CompileOnly:
    """A Triton driver for an absent GPU: launched kernels are compiled and stored, not run."""

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        self.target, self.shared_memory = GPUTarget(*TARGETS[target]), SHARED_MEMORY[target]
        self.utils, self.found, self._num_warps = self, [], 0

    def activate(self) -> None:
        """Makes this the process's Triton driver."""
        warnings.filterwarnings("ignore", message=".*FP_FUSION.*")
        from triton.runtime.driver import driver

        driver.set_active(self)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.shared_memory, "multiprocessor_count": 132}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        self._num_warps = metadata.num_warps
        return lambda *args: None

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple:
        self.found.append((name, self._num_warps, shared, binary))
        return object(), object(), 0, 0, 1024

    def unload_module(self, module: Any) -> None:
        pass


def compile_variant(variant: AnyVariant, target: str) -> list[Compiled]:
    """The variant's kernels, compiled for the target."""
    from lckernels.backends.triton import tuned
    from lckernels.backends.triton.tiles import TABLE, with_descriptors

    compiler = CompileOnly(target)
    compiler.activate()
    call = variant.call("meta")
    begin = time.perf_counter()
    with tuned.trying(with_descriptors(TABLE) if variant.descriptors else TABLE):
        call()
    seconds = time.perf_counter() - begin
    if TARGETS[target][0] != "cuda":  # cuobjdump supports cubins only
        zeros = (0,) * 8  # registers and counts
        return [Compiled(variant.name, *kernel[:3], *zeros, seconds) for kernel in compiler.found]
    return [_read(variant.name, *kernel, seconds) for kernel in compiler.found]


def _read(variant: str, name: str, num_warps: int, shared: int, binary: bytes, seconds: float) -> Compiled:
    """Registers and counts of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        (kernel,) = sass.kernels(Path(file.name))
    counted = (
        kernel.count(sass.SPILLS),
        sum(code in sass.SPILLS for code in kernel.step_codes),
        len(kernel.codes),
        *map(kernel.count, (sass.WGMMA, sass.MMA, sass.COPIES, sass.TMA)),
    )
    return Compiled(variant, name, num_warps, shared, kernel.registers, *counted, seconds)


def compile_all(chosen: list[AnyVariant], target: str) -> list[Compiled]:
    """Every variant's kernels, each once, in PROCESSES processes."""
    with ProcessPoolExecutor(PROCESSES) as pool:
        made = pool.map(compile_variant, chosen, [target] * len(chosen))
        return [kernel for kernels in made for kernel in kernels]


def faults(found: list[Compiled], target: str) -> list[str]:
    """Faults: spills without an optional feature, too much shared memory, no wgmma.

    With grouped heads only spills in innermost loops are faults.
    """
    wrong = []
    for kernel in found:
        name = f"{kernel.variant} {kernel.kernel}"
        if kernel.shared > SHARED_MEMORY[target]:
            wrong.append(
                f"{name}: {kernel.shared} bytes of shared memory, {target} has {SHARED_MEMORY[target]}"
            )
        if target != "sm_90":
            continue
        plain = not kernel.variant.endswith(FEATURES[1:])
        grouped = (
            "-h8:2" in kernel.variant
        )  # the loop over the heads of a group may spill outside the innermost loops
        spills = kernel.step_spills if grouped else kernel.spills
        if plain and spills:
            wrong.append(f"{name}: {spills} spills")
        if plain and needs_wgmma(kernel) and not kernel.wgmma:
            wrong.append(f"{name}: no wgmma")
        if multiplies(kernel) and not kernel.wgmma + kernel.mma:
            wrong.append(f"{name}: no product on the matrix units")
        if kernel.variant.endswith("-tma") and kernel.kernel != "attention_delta_kernel" and not kernel.tma:
            wrong.append(f"{name}: no TMA")
    return wrong


def needs_wgmma(kernel: Compiled) -> bool:
    """Whether wgmma is expected: half precision, and tiles of at least 64 rows."""
    few_rows = "-q1-" in kernel.variant or "-q48-" in kernel.variant
    head_dim = int(re.search(r"-d(\d+)-", kernel.variant)[1]) if multiplies(kernel) else 0
    return multiplies(kernel) and not few_rows and head_dim <= _WIDEST.get(kernel.kernel, 256)


def multiplies(kernel: Compiled) -> bool:
    """Whether it has matrix products in half precision."""
    has_products = kernel.kernel.startswith(("attention_forward", "attention_backward", "chunked"))
    return has_products and "float16" in kernel.variant


def table(found: list[Compiled]) -> str:
    """A Markdown table, a row per kernel."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    return "\n".join(lines + ["| " + " | ".join(kernel.cells) + " |" for kernel in found])


def main(arguments: list[str] | None = None) -> int:
    from lckernels.backends.triton.tiles import Chip

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="sm_90", choices=TARGETS)
    parser.add_argument("--all", action="store_true", help="every dtype, head dim and feature")
    parser.add_argument("--only", default="", help="variants whose names match this regular expression")
    parser.add_argument("--any", action="store_true", help="fail only where a kernel does not compile")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    has_tma = Chip(options.target, SHARED_MEMORY[options.target], 0).has_tma
    chosen = [
        v for v in variants(options.all) if re.search(options.only, v.name) and (has_tma or not v.descriptors)
    ]
    begin = time.perf_counter()
    found = compile_all(chosen, options.target)
    text, wrong = table(found), faults(found, options.target)
    print(text)
    print(f"{len(chosen)} variants for {options.target} in {time.perf_counter() - begin:.0f} s")
    print("\n".join(f"FAULT {fault}" for fault in wrong))
    if options.write:
        import triton

        title = f"Triton's kernels compiled for {options.target} by Triton {triton.__version__}, not run"
        options.write.write_text(f"# {title}\n\n{text}\n")
    return 1 if (wrong and not options.any) or not found else 0


if __name__ == "__main__":
    os.environ.pop("TRITON_INTERPRET", None)
    sys.exit(main())
