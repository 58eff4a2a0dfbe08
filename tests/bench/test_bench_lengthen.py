"""bench.suites.token_classification: tokens of one chunk, its rows, a wrong result, the goal."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from helpers.minilm import requires_minilm

from bench.harness.comparison import OWN
from bench.harness.report import goals, lengthen_goals
from bench.suites import token_classification as suite

CASE = suite.TokenCase(200, 64, 16)


def test_tokens_away_from_seams_are_in_one_chunk():
    room = CASE.chunk_len - 2
    starts = range(0, CASE.tokens - CASE.overlap, CASE.step)
    assert len(starts) == CASE.num_chunks
    of_chunk = [range(start, min(start + room, CASE.tokens)) for start in starts]
    last = of_chunk[CASE.num_chunks - 2].start
    alone = [(i, t) for i, own in enumerate(of_chunk) for t in own if sum(t in one for one in of_chunk) == 1]
    assert CASE.away_from_seams() == [(i, token) for i, token in alone if token < last]


@requires_minilm
def test_rows():
    made = suite.token_classification_rows(CASE, rounds=1)
    assert [(row.provider, bool(row.note)) for row in made] == [(OWN, False), (suite.PIPELINE, True)]
    assert all(row.check.passed and row.suite == lengthen_goals.SUITE for row in made)


@requires_minilm
def test_a_wrong_result_is_found(monkeypatch):
    lengthen = suite.lengthen
    shorter = {"chunk_len": CASE.chunk_len - 8}
    monkeypatch.setattr(suite, "lengthen", lambda *args, **options: lengthen(*args, **options | shorter))
    with pytest.raises(AssertionError, match="lckernels: result 0 is off by"):
        suite.token_classification_rows(CASE, rounds=1)


def test_the_goal():
    row = {"suite": "lengthen", "provider": OWN, "dtype": "float32", "direction": "forward"}
    shape, date = {"tokens": 12}, "2026-11-30T00:00:00"
    found = [{**row, "shape": shape, "date": date, "ratios": {suite.PIPELINE: x}} for x in (1.2, 1.05)]
    (line,) = goals.table(found, lengthen_goals.GOALS)[2:]
    assert line.strip("| ").split(" | ")[2:7] == [">= 1.1", "1.05", "1.20", "2", "no"]
