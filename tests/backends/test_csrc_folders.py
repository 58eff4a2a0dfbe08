"""The folders of csrc: which files may include torch, be compiled per instruction set, or have inline PTX."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
SOURCES = {
    str(path.relative_to(CSRC)): path.read_text()
    for path in sorted(CSRC.rglob("*"))
    if path.suffix in (".h", ".cpp", ".cu", ".cuh")
}
PER_ISA = r"cpu/(simd|\w+/kernel)/"
USES_TORCH = (
    r"binding/|\w+/\w+/register\.cpp|cpu/common/(tensor_args|parallel)\.|cuda/(device|common/rows)\.h"
)


def files_with(pattern: str) -> list[str]:
    return [name for name, text in SOURCES.items() if re.search(pattern, text)]


@pytest.mark.parametrize(
    ("pattern", "folders"),
    [
        (r"#include <torch/", USES_TORCH),
        (r'#include "binding/', USES_TORCH),
        (r"\bLCK_ISA\b", PER_ISA),
        (rf'#include "{PER_ISA}', PER_ISA),
        (r"\basm\b", r"cuda/ptx\.cuh|cpu/|host/"),
        (r'#include "cpu/', r"cpu/"),
        (r'#include "cuda/', r"cuda/"),
    ],
)
def test_only_some_folders_have(pattern, folders):
    found = files_with(pattern)
    assert [name for name in found if not re.match(folders, name)] == []


def test_the_patterns_find_files():
    assert len(files_with(r"#include <torch/")) >= 3 and len(files_with(r"\bLCK_ISA\b")) > 15


def test_no_header_hides_another():
    """A quoted include finds a file beside the including one before it finds csrc's own."""
    top = {name for name in SOURCES if "/" not in name}
    assert [name for name in SOURCES if "/" in name and name.rpartition("/")[2] in top] == []
