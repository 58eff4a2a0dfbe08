"""README's figures are rows of bench/results, its picture is drawn by its script, it stays short."""

import json
import runpy

import pytest
from helpers.docs_pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMIT, ISA = "e2f729a", "avx512_bf16"
# Row of the table -> direction, dtype and shape of the row of bench/results/attention.jsonl.
FORWARD = {"batch": 1, "seqlen": 8192, "heads": "8:8", "head_dim": 64, "window": "511,0"}
WIDE = {**FORWARD, "seqlen": 4096, "head_dim": 128}
CASES = {
    "forward, fp32, N=8192, D=64": ("forward", "float32", FORWARD),
    "forward, fp32, N=4096, D=128": ("forward", "float32", WIDE),
    "forward, bf16, N=8192, D=64": ("forward", "bfloat16", FORWARD),
    "forward, bf16, N=4096, D=128": ("forward", "bfloat16", WIDE),
    "backward, fp32, N=4096, D=64": ("backward", "float32", {**FORWARD, "seqlen": 4096}),
    "backward, fp32, N=4096, D=128": ("backward", "float32", WIDE),
    "full causal forward, fp32, N=8192, D=64": ("forward", "float32", {**FORWARD, "window": "-1,0"}),
    "decode, batch 2, 1 query, 65,536 keys, bf16, D=64": (
        "decode",
        "bfloat16",
        {"batch": 2, "seqlen": 65536, "heads": "8:8", "head_dim": 64, "window": "-1,0"},
    ),
}


@pytest.fixture(scope="module")
def measured():
    """Rows of lckernels at the commit with the instruction set, the latest of each case."""
    lines = (ROOT / "bench" / "results" / "attention.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["commit"].startswith(COMMIT)]
    rows = [row for row in rows if row["machine"]["isa"] == ISA]
    return {(row["direction"], row["dtype"], *row["shape"].values()): row for row in rows if row["backend"]}


@pytest.mark.parametrize("case", CASES)
def test_the_measurements_are_rows_of_the_results(case, measured):
    (line,) = (line for line in README.splitlines() if line.startswith(f"| {case} |"))
    _, rate, percent, *ratios = (cell.strip() for cell in line.strip("|").split("|"))
    direction, dtype, shape = CASES[case]
    row = measured[direction, dtype, *shape.values()]
    assert rate == f"{row['rate']:.1f} {row['unit']}"
    assert percent == f"{row['percent']:.0f} %"
    causal = row["ratios"].get("sdpa_causal_no_window", row["ratios"].get("sdpa_causal"))
    found = row["ratios"].get("flex"), row["ratios"]["sdpa_mask"], causal
    expected = ["" if ratio is None else f"{ratio:.1f}x" for ratio in found]
    assert [ratio.replace("no CPU backward", "") for ratio in ratios] == expected


def test_the_machine_of_the_measurements(measured):
    rows = list(measured.values())
    assert {row["machine"]["cpu"] for row in rows} == {"AMD EPYC (family 25, model 17)"}
    assert {(row["machine"]["isa"], row["machine"]["threads"], row["dirty"]) for row in rows} == {
        (ISA, 2, False)
    }
    assert f"commit {COMMIT}" in README


def test_the_picture_is_drawn_by_its_script(tmp_path):
    pytest.importorskip("matplotlib")
    script = ROOT / "docs" / "pictures" / "draw.py"
    drawn = runpy.run_path(str(script))
    drawn["draw"](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert drawn["TARGET"].is_file()
    assert str(drawn["TARGET"].relative_to(ROOT)) in README


def test_the_page_is_short():
    assert len(README.splitlines()) <= 150
