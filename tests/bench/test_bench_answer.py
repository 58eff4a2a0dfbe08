"""bench.suites.answer: one small run prints its parts and ratios."""

import json
import sys

import pytest
from helpers.minilm import requires_minilm

pytest.importorskip("transformers")

from bench.suites import answer


@requires_minilm
def test_a_small_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["answer", "--characters", "3000", "--rounds", "1", "--cpu-time"])
    answer.main()
    sample, result, about = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert sample["tokens"] > 300 and about["unit"] == "CPU seconds"
    assert 0 < sample["search"] < sample["encoder"] < sample["answer"]
    assert result["search / encode"] == pytest.approx(sample["search"] / sample["encode"], abs=1e-3)
