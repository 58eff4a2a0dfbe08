"""Exact match and F1 of answers, F1 of entities, accuracy of classes: by hand."""

import pytest

from lckernels.tasks.evaluation.scores import class_scores, cmrc_scores, entity_scores, squad_scores


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("The River!", ["a river"], 1, 1),
        ("the long river", ["river", "the long, long river"], 0, 2 * 2 / (2 + 3)),
        ("", [], 1, 1),
        ("river", [], 0, 0),
        ("", ["river"], 0, 0),
        ("the", ["an"], 1, 1),  # articles alone
    ],
)
def test_squad(predicted, answers, exact, f1):
    assert squad_scores(predicted, answers) == pytest.approx({"exact match": exact, "F1": f1})


@pytest.mark.parametrize(
    ("predicted", "answers", "exact", "f1"),
    [
        ("北京。", ["北京"], 1, 1),
        ("在北京", ["北京", "上海"], 0, 2 * 2 / 5),
        ("北大京", ["北京"], 0, 2 * 1 / 5),  # the longest common run is one character
        ("用 Python 写", ["python"], 0, 2 * 1 / 4),
        ("", ["北京"], 0, 0),
        ("", [], 1, 1),
    ],
)
def test_cmrc(predicted, answers, exact, f1):
    assert cmrc_scores(predicted, answers) == pytest.approx({"exact match": exact, "F1": f1})


def test_entities():
    gold = {(0, 2, "A"), (3, 5, "B")}
    assert entity_scores(gold, gold) == {"precision": 1, "recall": 1, "F1": 1}
    found = {(0, 2, "A"), (3, 5, "A"), (7, 8, "B")}
    assert entity_scores(found, gold) == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "F1": 2 / 5})
    assert entity_scores([], gold) == {"precision": 0, "recall": 0, "F1": 0}
    assert entity_scores([], []) == {"precision": 1, "recall": 1, "F1": 1}


def test_classes():
    assert class_scores(["a", "b", "c"], ["a", "b", "b"]) == pytest.approx(
        {"accuracy": 2 / 3, "macro F1": (1 + 2 / 3) / 2}
    )
