"""Scores of tiny models on files of each format: those of the task's function; buckets; labels of others."""

import json

import pytest
import torch
from helpers.head_models import NUM_LABELS, head_model
from helpers.word_tokenizer import word_tokenizer, words

from lckernels.errors import InputError
from lckernels.tasks import answer, classify, tag
from lckernels.tasks.evaluation import evaluate
from lckernels.tasks.evaluation.evaluate import EDGES
from lckernels.tasks.evaluation.scores import entity_scores, squad_scores

transformers = pytest.importorskip("transformers")

TEXTS = [words(20), words(200), words(150, 1), words(600)]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def write(tmp_path, value):
    path = tmp_path / "file"
    rows = value if isinstance(value, list) else None
    path.write_text(json.dumps(value) if rows is None else "\n".join(map(json.dumps, rows)))
    return path


def test_answers(tokenizer, tmp_path):
    model = head_model("bert", "QuestionAnswering").float()
    found = answer(model, tokenizer, "w5 w6", TEXTS, no_answer=False, top_k=1)
    golds = [found[0].answers[0].text, "w5", TEXTS[2].split()[140], "w7 w8 w9"]
    starts = [found[0].answers[0].start, 0, len(" ".join(TEXTS[2].split()[:140])) + 1, 0]
    paragraphs = [
        {"context": text, "qas": [{"question": "w5 w6", "answers": [{"text": gold, "answer_start": start}]}]}
        for text, gold, start in zip(TEXTS, golds, starts, strict=True)
    ]
    result = evaluate(model, tokenizer, write(tmp_path, {"data": [{"paragraphs": paragraphs}]}))
    rows = [squad_scores(x.answers[0].text, [gold]) for x, gold in zip(found, golds, strict=True)]
    assert rows[0]["exact match"] == 1.0
    for name in ("exact match", "F1"):
        assert result.scores[name] == pytest.approx(sum(row[name] for row in rows) / 4)
    assert (result.format, result.task, result.num_examples, result.coverage) == ("squad", "answer", 4, 1.0)
    assert [(x.low, x.high, x.count) for x in result.by_length] == [
        (0, 128, 1),
        (128, 512, 2),
        (512, 2048, 1),
    ]
    assert [(x.low, x.count) for x in result.by_distance] == [(0, 3), (128, 1)]
    assert result.by_distance[1].scores == rows[2]
    assert result.by_length[0].scores == rows[0]


def test_a_question_without_an_answer_asks_for_no_answer(tokenizer, tmp_path):
    model = head_model("bert", "QuestionAnswering").float()
    asked = {"question": "w5 w6", "answers": [], "is_impossible": True}
    path = write(tmp_path, {"data": [{"paragraphs": [{"context": TEXTS[0], "qas": [asked]}]}]})
    best = answer(model, tokenizer, "w5 w6", TEXTS[0]).best
    assert evaluate(model, tokenizer, path).scores["exact match"] == float(best is None)
    with torch.no_grad():  # the head prefers [CLS] to every token
        model.qa_outputs.weight.zero_()
        model.qa_outputs.bias.zero_()
    assert evaluate(model, tokenizer, path, max_answer_tokens=1).by_distance == []


def test_entities(tokenizer, tmp_path):
    model = head_model("bert", "TokenClassification").float()
    model.config.id2label = {0: "O", 1: "B-A", 2: "I-A"}
    found = tag(model, tokenizer, TEXTS)
    spans = [{(x.start, x.end, x.label) for x in result.entities} for result in found]
    golds = [set(sorted(part)[::2]) for part in spans]
    rows = [
        {"text": text, "label": {"A": {"x": [[start, end - 1] for start, end, _ in sorted(part)]}}}
        for text, part in zip(TEXTS, golds, strict=True)
    ]
    result = evaluate(model, tokenizer, write(tmp_path, rows))
    numbered = [{(i, x) for i, part in enumerate(parts) for x in part} for parts in (spans, golds)]
    assert result.scores == entity_scores(*numbered) and result.scores["recall"] == 1.0
    assert 0 < result.scores["precision"] < 1 and (result.format, result.task) == ("cluener", "tag")
    assert sum(x.count for x in result.by_length) == 4
    assert sum(x.count for x in result.by_distance) == sum(map(len, spans))
    assert result.by_length[-1].scores == entity_scores(spans[3], golds[3])
    last = [x for x in spans[3] if len(TEXTS[3][: x[0]].split()) >= EDGES[1]]
    assert result.by_distance[-1].count == len(last) > 0
    with pytest.raises(InputError, match=r"none of the file's labels: the file has B, the model A$"):
        evaluate(model, tokenizer, write(tmp_path, [{"text": "w5", "label": {"B": {"w5": [[0, 1]]}}}]))
    model.config.id2label = {0: "O", 1: "B_A", 2: "I_A"}  # another sign between
    assert evaluate(model, tokenizer, write(tmp_path, rows)).scores == result.scores


def test_classes(tokenizer, tmp_path):
    model = head_model("bert", "SequenceClassification").float()
    found = [result.labels[0].label for result in classify(model, tokenizer, TEXTS, kind="single")]
    golds = [found[0], found[1], "LABEL_2", "LABEL_0"]
    rows = [{"sentence": x, "label": gold[-1]} for x, gold in zip(TEXTS, golds, strict=True)]
    result = evaluate(model, tokenizer, write(tmp_path, rows))
    right = sum(one == gold for one, gold in zip(found, golds, strict=True))
    assert result.scores["accuracy"] == right / 4 and right >= 2
    assert (result.format, result.task, result.by_distance) == ("iflytek", "classify", [])
    assert evaluate(model, tokenizer, write(tmp_path, rows), kind="multi").scores == result.scores
    described = [{**row, "label_des": f"class {row['label']}"} for row in rows]
    model.config.id2label = {i: f"class {i}" for i in range(NUM_LABELS)}
    assert evaluate(model, tokenizer, write(tmp_path, described)).scores == result.scores
    with pytest.raises(InputError, match="none of the file's labels: the file has x"):
        evaluate(model, tokenizer, write(tmp_path, [{"sentence": "w5", "label": "x"}]))


def test_a_limit_is_in_the_coverage(tokenizer, tmp_path):
    model = head_model("bert", "SequenceClassification").float()
    path = write(tmp_path, [{"sentence": TEXTS[1], "label": "0"}])
    assert evaluate(model, tokenizer, path).coverage == 1.0
    assert 0 < evaluate(model, tokenizer, path, limit=20).coverage < 0.2


def test_a_model_of_one_label_is_no_classifier(tokenizer, tmp_path):
    model = head_model("bert", "SequenceClassification").float()
    model.config.num_labels = 1
    with pytest.raises(InputError, match="the model has one label"):
        evaluate(model, tokenizer, write(tmp_path, [{"sentence": "w5", "label": "LABEL_0"}]))
