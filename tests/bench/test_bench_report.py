"""The pages, the plots and the summary that are made from rows."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from helpers.bench_rows import synthetic_rows

from bench.harness import rows
from bench.harness.report import __main__ as command
from bench.harness.report import pages, summary
from bench.harness.rows import OWN
from bench.harness.timing import Timing

ROOT = Path(__file__).resolve().parents[2]


def test_the_report_is_drawn_from_the_newest_rows(tmp_path):
    with pytest.raises(ValueError, match=r"holds no rows"):
        pages.write(tmp_path)
    older = [replace(row, timing=Timing(9.0, 9.0, 9.0, 2)) for row in synthetic_rows()]
    rows.append(older + synthetic_rows() + synthetic_rows(128) + synthetic_rows(64, "backward"), tmp_path)
    assert len((tmp_path / "gpu_attention.jsonl").read_text().splitlines()) == 8
    written = {path.name: path for path in pages.write(tmp_path)}
    assert set(written) == {
        "README.md",
        "gpu_attention-forward.md",
        "gpu_attention-backward.md",
        "gpu_attention_windowed_attention_forward.png",
        "gpu_attention_windowed_attention_backward.png",
    }
    page = "".join(written[f"gpu_attention-{name}.md"].read_text() for name in ("forward", "backward"))
    assert page.count("| 64 | 15,0 | float32 |  | eager | 2000 (1900-2200) | 2 | 25 % |  | 0.25 |") == 2
    assert page.count("| 128 | 15,0 |") == 1
    assert "9000" not in page
    assert "fma 8-8" in page
    for name, path in written.items():
        assert name.endswith(".md") or path.read_bytes().startswith(b"\x89PNG")


def write_dated(folder: Path, dated: dict[str, list[rows.Row]]) -> None:
    """Stores rows as if they were measured on those days."""
    with (folder / "gpu_attention.jsonl").open("w") as file:
        for date, made in dated.items():
            for row in made:
                file.write(json.dumps(rows.to_json(row) | {"date": date}) + "\n")


def test_the_index_begins_with_the_newest_day(tmp_path):
    write_dated(
        tmp_path, {"2026-11-24T10:00:00": synthetic_rows(), "2026-11-29T10:00:00": synthetic_rows(128)}
    )
    index = pages.write(tmp_path)[0].read_text()
    newest = index.split("## ")[1]
    assert newest.startswith("Newest rows: 2026-11-29")
    assert (
        "| windowed_attention, forward | seqlen 128, window 15,0 | float32 | 2000 | 2 GFLOP/s | 0.25 (flex) |"
        in newest
    )
    assert "seqlen 64" not in newest
    assert "| 2026-11-24 to 2026-11-29 |" in index.split("## ")[2]
    assert "[gpu_attention-forward.md](gpu_attention-forward.md)" in index


def test_sections_measured_last_come_first(tmp_path):
    made = {"2026-11-29T10:00:00": synthetic_rows(), "2026-11-24T10:00:00": synthetic_rows(64, "backward")}
    write_dated(tmp_path, made)
    lines = pages.write(tmp_path)[0].read_text().split("## ")[2].splitlines()[4:6]
    assert [line.split(" | ")[2] for line in lines] == [
        "windowed_attention, forward",
        "windowed_attention, backward",
    ]


def test_a_section_is_on_a_page_of_its_suite(tmp_path):
    """Two suites have the same op, direction and machine."""
    other = [replace(row, suite="t5") for row in synthetic_rows()]
    rows.append(synthetic_rows() + other, tmp_path)
    sections = pages.write(tmp_path)[0].read_text().split("## ")[2].splitlines()[4:6]
    found = {cells[3]: cells[6] for cells in (line.split(" | ") for line in sections)}
    assert found == {
        "gpu_attention": "[gpu_attention-forward.md](gpu_attention-forward.md) |",
        "t5": "[t5-forward.md](t5-forward.md) |",
    }


def test_a_peer_with_another_result_counts_where_it_has_the_same(tmp_path):
    """A note is of one case: attention without a window is not what a window returns."""
    windowed = [replace(row, note="another result") for row in synthetic_rows() if row.provider != OWN]
    windowed += [row for row in synthetic_rows() if row.provider == OWN]
    rows.append([*windowed, *synthetic_rows(128)], tmp_path)
    stored = pages.load(tmp_path)
    own = [row for row in stored if row["provider"] == OWN]
    peers = {row["shape"]["seqlen"]: pages.fastest_peer(row, stored) for row in own}
    assert peers == {64: None, 128: ("flex", 0.25)}


def test_long_pages_continue_on_another(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MAX_LINES", 40)
    of_machine = synthetic_rows() + synthetic_rows(128)
    write_dated(tmp_path, {"2026-11-29T10:00:00": of_machine})
    lines = (tmp_path / "gpu_attention.jsonl").read_text().splitlines()
    for cpu in ("A", "B", "C"):
        stored = [json.loads(line) for line in lines]
        for row in stored:
            row["machine"]["cpu"] = cpu
        with (tmp_path / "gpu_attention.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in stored)
    written = {path.name: path for path in pages.write(tmp_path)}
    parts = [name for name in written if name.startswith("gpu_attention-forward") and name.endswith(".md")]
    assert parts == ["gpu_attention-forward.md", "gpu_attention-forward-2.md"]
    texts = [written[name].read_text() for name in parts]
    assert all(len(text.splitlines()) <= 40 for text in texts)
    assert sum(text.count("| 128 | 15,0 |") for text in texts) == 4


def test_the_summary_has_every_ratio():
    head, line = summary.lines(synthetic_rows())
    assert head.split("  ")[0] == "op"
    assert " ".join(line.split()) == (
        "windowed_attention forward float32 seqlen=64 window=15,0 2e+03 ms 2 GFLOP/s 25 % flex 0.25x"
    )
    assert summary.lines([row for row in synthetic_rows() if row.provider == "flex"]) == []


def test_the_command_has_help_and_names_a_folder_without_rows(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0 and "folder of *.jsonl" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        command.main([str(tmp_path)])
    assert end.value.code == 2 and "holds no rows" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_git_ignores_the_default_folder_of_rows():
    ignored = ["git", "check-ignore", "-q", str(rows.OUTPUT / "attention.jsonl")]
    assert subprocess.run(ignored, cwd=ROOT).returncode == 0
    assert subprocess.run([*ignored[:3], str(rows.RESULTS / "attention.jsonl")], cwd=ROOT).returncode == 1


def test_tracked_pages_are_those_of_the_tracked_rows():
    """`python -m bench.harness.report bench/results` was run after the last change of rows or pages."""
    stored = pages.load(rows.RESULTS)
    made = pages.suite_pages(stored)
    for name, text in made.items():
        assert (rows.RESULTS / name).read_text() == text, name
        assert len(text.splitlines()) <= pages.MAX_LINES
    assert (rows.RESULTS / pages.INDEX).read_text() == pages.index(stored, made)
