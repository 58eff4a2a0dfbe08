"""Sizes and places of files: a file is short, and its name describes its contents."""

import subprocess
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("lckernels", "csrc", "python", "tests", "bench")
SOURCES = (".py", ".h", ".cpp", ".cu", ".cuh", ".sh", ".toml")
MAX_LINES, MAX_MEDIAN = 400, 110


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"needs a git checkout: {listed.stderr.strip()}")
    return [ROOT / name for name in listed.stdout.splitlines()]


def num_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def sources() -> dict[str, int]:
    """Lines of each source file, by its path."""
    paths = (path for path in tracked() if path.suffix in SOURCES and path.is_file())
    return {str(path.relative_to(ROOT)): num_lines(path) for path in paths}


def test_no_file_above_the_limit():
    assert {path: lines for path, lines in sources().items() if lines > MAX_LINES} == {}


def test_median_of_file_sizes():
    assert median(lines for lines in sources().values() if lines) <= MAX_MEDIAN


def test_no_utils():
    names = {part for path in tracked() for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names.isdisjoint({"util", "utils", "misc", "helper"})
