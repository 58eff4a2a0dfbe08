"""Registers and instruction counts of compiled kernels, from cuobjdump."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SPILLS = ("LDL", "STL")  # loads and stores of local memory
WGMMA, MMA = ("HGMMA",), ("HMMA",)  # tensor-core products, per warpgroup (sm_90) and per warp
COPIES, TMA = ("LDGSTS",), ("UTMALDG",)  # asynchronous copies to shared memory: per thread, per tile
_INSTRUCTION = r"^\s+/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+ +)?(\w+)(.*)"  # address, code, the rest


class Kernel(NamedTuple):
    """One function of a binary."""

    name: str  # mangled
    arch: str  # sm_90; empty in a bare cubin
    registers: int
    codes: list[str]  # of every instruction
    step_codes: list[str]  # of those in innermost loops

    def count(self, kinds: tuple[str, ...]) -> int:
        return sum(code in kinds for code in self.codes)


def kernels(binary: Path) -> Iterator[Kernel]:
    """Every kernel of a cubin, an object or a library. The tool is in Triton's package."""
    usage, sass = (_cuobjdump(option, binary) for option in ("-res-usage", "-sass"))
    registers = {
        (arch, name): int(count)
        for arch, name, count in _by_arch(usage, r"Function ([\w$]+):\s*\n\s*REG:(\d+)")
    }
    for arch, name, body in _by_arch(sass, r"Function : ([\w$]+)\n(.*?)(?=\n\t\tFunction : |\Z)"):
        yield Kernel(name, arch, registers[arch, name], *_codes(body))


def _codes(body: str) -> tuple[list[str], list[str]]:
    """The codes of a listing: of all instructions, and of those in innermost loops."""
    found = [(int(address, 16), code, rest) for address, code, rest in re.findall(_INSTRUCTION, body, re.M)]
    jumps = [(address, re.search(r"0x([0-9a-f]+)", rest)) for address, code, rest in found if code == "BRA"]
    loops = [(int(to[1], 16), address) for address, to in jumps if to and int(to[1], 16) < address]
    inner = [x for x in loops if not any(x != y and x[0] <= y[0] and y[1] <= x[1] for y in loops)]
    steps = [code for address, code, _ in found if any(begin <= address <= end for begin, end in inner)]
    return [code for _, code, _ in found], steps


def _by_arch(text: str, pattern: str) -> Iterator[tuple[str, ...]]:
    """Matches of the pattern, each behind the arch of its part of a fat binary."""
    parts = re.split(r"^arch = (sm_\w+)$", text, flags=re.M)
    named = zip(parts[1::2], parts[2::2], strict=True) if len(parts) > 1 else [("", text)]
    for arch, part in named:
        for found in re.findall(pattern, part, re.S):
            yield arch, *found


def _cuobjdump(option: str, binary: Path) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, option, binary], capture_output=True, text=True, check=True).stdout
