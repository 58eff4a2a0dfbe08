"""A very small training of bench.long_tasks: what is learned, and what a window cannot learn; tables."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from bench.long_tasks import __main__ as program
from bench.long_tasks import models, table, train, ways
from bench.long_tasks.data import sentence
from bench.long_tasks.tasks import TASKS, Stage


def test_the_learning_rate_rises_and_falls():
    rates = list(train._rates(Stage(64, 1, 100, 2.0)))
    assert rates[0] == pytest.approx(0.4) and max(rates) == pytest.approx(2.0, rel=0.01)
    assert rates[-1] < 0.01 and rates == rates[:5] + sorted(rates[5:], reverse=True)


def test_a_seed_determines_the_training():
    task = TASKS["sentence"]
    first, again, other = (
        train.train(models.seeded(models.classifier, 4, 0), task.ways[0], task, Stage(40, 4, 2), seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.fixture
def small(monkeypatch):
    """Chunks of 16 tokens, a reach of 8, and two sentences more per document than the evidence."""
    for name, value in (("CONTENT", 16), ("OVERLAP", 4), ("WINDOW", 4)):
        monkeypatch.setattr(ways, name, value)
    monkeypatch.setattr(sentence, "NUM_OTHERS", 1)
    return models.LAYERS * 4


def test_lengthened_learns_and_a_window_is_at_chance_beyond_its_reach(small):
    """Bounds: four standard deviations of the accuracy of a guess."""
    task, num = TASKS["sentence"], 512
    by_name = {way.name: way for way in task.ways}
    short = train.short_model(task, by_name["lengthened"], (Stage(16, 32, 120),), 0)
    found = {}
    for name in ("lengthened", "windowed"):
        model = train.long_model(task, by_name[name], short, (Stage(64, 16, 40, 1e-3),), 0)
        found[name] = train.evaluate(model, by_name[name], task, 64, num, 0)
    place, right = (torch.tensor(found["windowed"][key]) for key in ("place", "correct"))
    beyond = right[place * 64 >= small]
    spread = (task.chance * (1 - task.chance) / len(beyond)) ** 0.5
    assert abs(beyond.mean() - task.chance) < 4 * spread
    learned = torch.tensor(found["lengthened"]["correct"])[place * 64 >= small]
    assert learned.mean() > 0.6  # 0.84 on AVX2


def test_bins_of_places():
    found = {"place": [0.0, 0.2, 0.3, 0.99], "correct": [1, 0, 1, 1], "seen": [1, 0, 1, 0]}
    assert table.binned(found, bins=4) == {
        "accuracy": 0.75, "by_place": [0.5, 1.0, None, 1.0], "counts": [2, 1, 0, 1],
        "unseen": 0.5, "num_unseen": 2,
    }  # fmt: skip


def test_the_program_writes_rows_and_tables(tmp_path, monkeypatch, capsys):
    stages = {"short": (Stage(64, 2, 1),), "long": (Stage(128, 2, 1),)}
    task = replace(TASKS["copy"], length=128, **stages)
    monkeypatch.setattr(program, "TASKS", {"copy": task})
    monkeypatch.setattr(sys, "argv", ["long_tasks", str(tmp_path), "--quick", "--documents", "4"])
    program.main()
    rows = [json.loads(line) for line in (tmp_path / "long_tasks.jsonl").read_text().splitlines()]
    assert [row["way"] for row in rows] == [way.name for way in task.ways]
    for row in rows:
        assert sum(row["counts"]) == 12 and row["length"] == 128
        assert {"machine", "versions", "commit", "dirty", "stages", "seed"} <= row.keys()
    text = (tmp_path / "long_tasks.md").read_text()
    assert text in capsys.readouterr().out
    assert text.startswith("**Copy, T5** (`copy`): 128 tokens, chance 12.5 %.\n\n| way | all | ")
    assert len(text.splitlines()) == 4 + len(task.ways)
    table.append(rows[0] | {"accuracy": 0.5}, tmp_path)
    newest = {row["way"]: row["accuracy"] for row in table.read(tmp_path)}
    assert len(newest) == len(rows) and newest[rows[0]["way"]] == 0.5


def test_the_tables_of_the_documentation_are_those_of_the_stored_rows():
    root = Path(__file__).resolve().parents[2]
    text = table.markdown(table.read(root / "bench" / "results" / "long_tasks"))
    assert text in (root / "docs" / "training.md").read_text(encoding="utf-8")
