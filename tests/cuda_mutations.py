"""Mutation test of the CUDA kernels' host tests: each fault of tests/csrc/mutations/ must make one fail.

`python tests/cuda_mutations.py` takes minutes; `--only TEXT` runs those whose name contains the text.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ("fiber", "block", "memory", "collectives", "ptx_host")
SCHEDULES = ("round-robin", "last", "random:1", "random:2", "priorities:1")
BUILDS = {
    "plain": ("-O0",),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-fsanitize=thread", "-Wno-tsan"),
}
_NONE = "none"


class Mutation(NamedTuple):
    """One change of a source file.

    Attributes:
        name: printed with the result.
        file: the file, relative to csrc/cuda.
        old: a text of the file.
        new: what replaces it.
        test: the program of tests/csrc that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str = "mutation_attention"


def all_mutations() -> list[Mutation]:
    """Those of tests/csrc/mutations/, and one without a change, with which every test must pass."""
    files = sorted((ROOT / "tests/csrc/mutations").glob("*.toml"))
    entries = [entry for path in files for entry in tomllib.loads(path.read_text())["mutation"]]
    return [Mutation(_NONE, "attention/tile.cuh", "", ""), *(Mutation(**entry) for entry in entries)]


def missing(mutations: list[Mutation]) -> list[str]:
    """A line for each mutation whose old text is not in its file."""
    return [
        f"{m.name}: {m.file} has no {m.old!r}"
        for m in mutations
        if m.old not in (ROOT / "csrc/cuda" / m.file).read_text()
    ]


class MutatedSources:
    """A copy of the sources, in which one file at a time is changed; the runtime is compiled once."""

    def __init__(self, folder: Path, cuda: str, cpu_kernels: list[str]) -> None:
        self.folder, self.cpu_kernels = folder, cpu_kernels
        for part in ("csrc", "tests/csrc"):
            shutil.copytree(ROOT / part, folder / part)
        includes = ("csrc", "tests/csrc")
        self.flags = [
            "-std=c++20",
            "-w",
            "-g1",
            *(f"-I{folder / path}" for path in includes),
            f"-isystem{cuda}",
        ]
        self.runtime = [str(folder / f"{name}.o") for name in RUNTIME]
        for name, made in zip(RUNTIME, self.runtime, strict=True):
            source = str(folder / "tests/csrc/simt" / f"{name}.cpp")
            if error := self._compile("-O2", "-c", source, "-o", made):
                raise RuntimeError(f"{name}.cpp does not compile: {error.splitlines()[0]}")

    def _compile(self, *arguments: str) -> str:
        """The compiler's errors; empty if there are none."""
        compiler = os.environ.get("CXX", "g++").split()
        done = subprocess.run([*compiler, *self.flags, *arguments], capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    def failure(self, mutation: Mutation) -> str:
        """The first run that fails with the mutation, and its message; empty if none fails."""
        path = self.folder / "csrc/cuda" / mutation.file
        intact = path.read_text()
        path.write_text(intact.replace(mutation.old, mutation.new) if mutation.old else intact)
        try:
            return next(filter(None, (self._failure(mutation.test, build) for build in BUILDS)), "")
        finally:
            path.write_text(intact)

    def _failure(self, test: str, build: str) -> str:
        program = str(self.folder / "program")
        source = str(self.folder / "tests/csrc" / f"{test}.cpp")
        libraries = [*self.runtime, *self.cpu_kernels, "-lpthread"]
        if error := self._compile(*BUILDS[build], source, *libraries, "-o", program):
            raise RuntimeError(f"{test} does not compile: {error.splitlines()[0]}")
        for schedule in SCHEDULES if build == "plain" else SCHEDULES[:1]:
            try:
                done = subprocess.run(
                    [program], capture_output=True, text=True, errors="replace", timeout=300,
                    env=os.environ | {"LCK_SCHEDULE": schedule},
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                return f"{build}, {schedule}: no end"
            if done.returncode:
                lines = (done.stdout + done.stderr).strip().splitlines()
                errors = [line for line in lines if "simt:" in line or "ERROR" in line or "WARNING" in line]
                return f"{build}, {schedule}: {(errors or lines or ['a crash'])[0].strip()[:90]}"
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="mutations whose name contains the text")
    parser.add_argument(
        "--cuda", default="/usr/local/cuda/include", metavar="FOLDER", help="the CUDA headers"
    )
    parser.add_argument(
        "--kernels", nargs="+", default=[], metavar="FILE", help="libraries of the CPU's kernels"
    )
    options = parser.parse_args()
    kernels = options.kernels or [
        str(p) for name in ("cpu_kernels", "host") for p in ROOT.glob(f"build/cmake-*/lib{name}.a")
    ]
    if not (Path(options.cuda) / "cuda_fp16.h").exists():
        print(f"cuda_mutations: skipped, no CUDA headers in {options.cuda}")
        return 0
    wrong = []
    chosen = [
        mutation for mutation in all_mutations() if mutation.name == _NONE or options.only in mutation.name
    ]
    if lines := missing(chosen):
        raise ValueError("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        sources = MutatedSources(Path(folder), options.cuda, kernels)
        for mutation in chosen:
            failure = sources.failure(mutation)
            print(f"{mutation.name:45} {failure or 'every test passes'}", flush=True)
            if bool(failure) != (mutation.name != _NONE):
                wrong.append(mutation.name)
    print(f"{len(chosen) - len(wrong)} of {len(chosen)} mutations give the expected result", *wrong, sep="; ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
