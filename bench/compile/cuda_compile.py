"""The CUDA kernels as compiled by nvcc, read from _C_cuda.so without a GPU: registers, spills, instructions.

`python -m bench.compile.cuda_compile` prints a row per kernel; the exit status is 1 if a kernel has a fault.
`--write FILE` stores the table. `make cuda` builds the library and runs this.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from bench.compile import sass
from bench.harness import rows
from lckernels.backends.cuda.library import LARGE_BLOCK_BYTES, LIBRARY

_HEADER = ("kernel", "chip", "threads", "shared", "registers", "spills", "instructions", "mma", "copies")
_SMALL_BLOCK_BYTES = 99 * 1024  # of sm_86, sm_89 and sm_120


def short_names(names: list[str]) -> dict[str, str]:
    """Mangled name -> the kernel's name with its template's arguments."""
    if not names:
        return {}
    plain = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    return {name: _shorten(text) for name, text in zip(names, plain.splitlines(), strict=True)}


def _shorten(name: str) -> str:
    """`kernel<float16, 64, false>`; the last number of a backward is its KeyGradients."""
    name = re.sub(r"\((?:bool|int|lck::KeyGradients)\)", "", name).removeprefix("void ").replace("lck::", "")
    return name.partition("(")[0].replace("__nv_bfloat16", "bfloat16").replace("__half", "float16")


def launch_shapes(program: Path | None) -> dict[str, tuple[int, int]]:
    """Mangled name -> threads and bytes of shared memory, of the kernels that use shared memory."""
    if program is None:
        return {}
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: (int(threads), int(shared)) for name, threads, shared in map(str.split, said.splitlines())}


def is_default(name: str) -> bool:
    """Whether the kernel runs without optional features: attention with a window only, or a merge."""
    return not re.search(r"attention_(forward|backward_\w+)<\w+, \d+, (true|1)|bias_gradient|chunked", name)


def multiplies(name: str) -> bool:
    return bool(re.match(r"(attention|chunked)_(forward|backward|bias)", name))


def shared_limit(name: str) -> int:
    """The largest shared memory of a block in the backend, by head dim."""
    dim = re.search(r"^(attention|chunked)_\w+<\w+, (\d+)", name)
    large = dim is not None and int(dim[2]) > (64 if dim[1] == "chunked" else 96)
    return LARGE_BLOCK_BYTES if large else _SMALL_BLOCK_BYTES


def faults(found: list[sass.Kernel], names: dict[str, str], shapes: dict[str, tuple[int, int]]) -> list[str]:
    """Faults: spills without an optional feature, products without tensor cores, more shared memory than
    the chip has, no kernel with products."""
    wrong = []
    if not any(multiplies(name) for name in names.values()):
        wrong.append("no kernel that multiplies is known by its name")
    for kernel in found:
        name, spills = names[kernel.name], kernel.count(sass.SPILLS)
        if spills and is_default(name):
            wrong.append(f"{name}, {kernel.arch}: {spills} spills")
        if multiplies(name) and not kernel.count(sass.MMA):
            wrong.append(f"{name}, {kernel.arch}: no product on the matrix units")
        shared = shapes.get(kernel.name, (0, 0))[1]
        if shared > shared_limit(name):
            wrong.append(f"{name}, {kernel.arch}: {shared} bytes of shared memory")
    return wrong


def table(found: list[sass.Kernel], names: dict[str, str], shapes: dict[str, tuple[int, int]]) -> str:
    """A Markdown table, a row per kernel."""
    lines = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    for kernel in sorted(found, key=lambda kernel: (names[kernel.name], kernel.arch)):
        counts = (
            kernel.count(sass.SPILLS),
            len(kernel.codes),
            kernel.count(sass.MMA),
            kernel.count(sass.COPIES),
        )
        shape = shapes.get(kernel.name, ("", ""))
        cells = (f"`{names[kernel.name]}`", kernel.arch, *shape, kernel.registers, *counts)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def nvcc_version() -> str:
    said = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"V([\d.]+)", said)[1]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", type=Path, metavar="PROGRAM", help="the compiled program cuda_shapes")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there")
    options = parser.parse_args(arguments)
    if not LIBRARY.exists():
        print(f"{LIBRARY.name} was not built (`make cuda` builds it where nvcc is)")
        return 1
    found = list(sass.kernels(LIBRARY))
    names = short_names([kernel.name for kernel in found])
    shapes = launch_shapes(options.shapes)
    text, wrong = table(found, names, shapes), faults(found, names, shapes)
    print(text)
    print(f"{len(found)} kernels")
    print("\n".join(f"FAULT {fault}" for fault in wrong))
    if options.write:
        made = f"compiled by nvcc {nvcc_version()} at commit {rows.commit()['commit']}, not run"
        options.write.write_text(f"# The CUDA kernels {made}\n\n{text}\n")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
