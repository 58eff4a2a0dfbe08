"""The folders of bench/, and the example of bench/README.md."""

import ast
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from helpers.bench_clock import Clock

from bench.cases.attention import causal
from bench.harness.comparison import OWN, Budget
from bench.harness.report import summary
from bench.suites import verified
from bench.suites.attention_comparison import compare

BENCH = Path(__file__).resolve().parents[2] / "bench"
# Each folder imports from those before it, and from itself.
FOLDERS = ("harness", "cases", "peers", "suites", "gpu")
OTHERS = {"demo": {"harness", "cases"}, "compile": {"harness"}, "long_tasks": {"harness"}}


def test_the_peer_of_the_readme_is_checked_and_timed(monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (BENCH / "README.md").read_text(), re.S)
    namespace = {}
    exec(block, namespace)
    monkeypatch.setitem(verified.PEERS, "forward", (*verified.PEERS["forward"][:1], namespace["math_sdpa"]))
    budget = Budget(rounds=2, seconds=0.0, peer_seconds=0.0, call_seconds=60.0)
    made = compare(Clock(), causal(64, 9, torch.float32, head_dim=8), "forward", budget)
    assert [row.provider for row in made] == [OWN, "sdpa_mask", "math_sdpa"]
    assert "math_sdpa" in made[0].ratios and "math_sdpa " in summary.lines(made)[1]
    grouped = causal(64, 9, torch.float32, num_heads=4, num_kv_heads=2, head_dim=8)
    assert compare(Clock(), grouped, "forward", budget)[0].left_out == {"math_sdpa": "grouped queries"}


def imported(path: Path) -> set[str]:
    """The folders of bench/ that a file imports from, function-level imports too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("bench.")}
    return found


def test_imports_inside_bench_go_one_way():
    allowed = {folder: set(FOLDERS[: i + 1]) for i, folder in enumerate(FOLDERS)}
    allowed |= {folder: others | {folder} for folder, others in OTHERS.items()}
    for path in sorted(BENCH.glob("*/**/*.py")):
        folder = path.relative_to(BENCH).parts[0]
        upwards = imported(path) - allowed.get(folder, {folder})
        assert not upwards, f"{path.relative_to(BENCH)} imports from {', '.join(sorted(upwards))}"


def test_every_program_of_the_readme_exists():
    text = (BENCH / "README.md").read_text()
    for module in re.findall(r"-m (bench[\w.]+)", text):
        path = BENCH.parent / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    for folder in re.findall(r"`(\w+)/`", text.partition("## Folders")[2].partition("## ")[0]):
        assert (BENCH / folder).is_dir() or (BENCH / "harness" / folder).is_dir(), folder
