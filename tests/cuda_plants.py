"""Plants faults into copies of the CUDA kernels and checks that the host tests notice every one.

`python tests/cuda_plants.py` takes minutes; `--only TEXT` plants those whose name has the text. It is how the
host tests themselves are tested: a fault that nothing notices is a failure.
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
RUNTIME = ("fiber", "block", "memory", "meetings", "ptx_host")
SCHEDULES = ("round-robin", "last", "random:1", "random:2", "priorities:1")
BUILDS = {
    "plain": ("-O0",),
    "address": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-O1", "-fsanitize=thread", "-Wno-tsan"),
}


_NONE = "none"


class Plant(NamedTuple):
    name: str
    file: str  # of csrc/cuda
    old: str
    new: str
    test: str = "plants_attention"


def plants() -> list[Plant]:
    """Those of tests/csrc/plants.toml, and one that changes nothing, which must not be noticed."""
    listed = tomllib.loads((ROOT / "tests/csrc/plants.toml").read_text())["plant"]
    return [Plant(_NONE, "attention/tile.cuh", "", ""), *(Plant(**entry) for entry in listed)]


class Workshop:
    """A copy of the sources, in which one file at a time is damaged; the runtime is compiled once."""

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
        """What is wrong; empty if nothing is."""
        compiler = os.environ.get("CXX", "g++").split()
        done = subprocess.run([*compiler, *self.flags, *arguments], capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    def refuse_unplantable(self, plants: list[Plant]) -> None:
        """Raises ValueError naming all plants whose text the sources do not have."""
        lost = [p for p in plants if p.old not in (self.folder / "csrc/cuda" / p.file).read_text()]
        if lost:
            raise ValueError("\n".join(f"{p.name}: {p.file} has no {p.old!r}" for p in lost))

    def notices(self, plant: Plant) -> str:
        """Which run notices the plant and how; empty if none does."""
        path = self.folder / "csrc/cuda" / plant.file
        intact = path.read_text()
        path.write_text(intact.replace(plant.old, plant.new) if plant.old else intact)
        try:
            return next(filter(None, (self._notices(plant.test, build) for build in BUILDS)), "")
        finally:
            path.write_text(intact)

    def _notices(self, test: str, build: str) -> str:
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
                said = (done.stdout + done.stderr).strip().splitlines()
                told = [line for line in said if "simt:" in line or "ERROR" in line or "WARNING" in line]
                return f"{build}, {schedule}: {(told or said or ['a crash'])[0].strip()[:90]}"
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="plants whose name has the text")
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
        print(f"cuda_plants: skipped, no CUDA headers in {options.cuda}")
        return 0
    unnoticed = []
    chosen = [plant for plant in plants() if plant.name == _NONE or options.only in plant.name]
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(Path(folder), options.cuda, kernels)
        workshop.refuse_unplantable(chosen)
        for plant in chosen:
            seen = workshop.notices(plant)
            print(f"{plant.name:45} {seen or 'nothing notices'}", flush=True)
            if bool(seen) != (plant.name != _NONE):
                unnoticed.append(plant.name)
    print(
        f"{len(chosen) - len(unnoticed)} of {len(chosen)} plants are as they should be", *unnoticed, sep="; "
    )
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
