"""classify: what the head computes of merged states, on models trained here and on tiny ones of each kind."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.classifiers import (
    CHARACTERS,
    FILLERS,
    OVERLAP,
    WORDS,
    chinese_text,
    exclusive_or,
    subject_of_text,
    tokenizer,
    word_texts,
)
from helpers.encoder_models import PAD, SEP, VOCAB
from helpers.head_models import encoder_of, head_model
from helpers.trained_models import CHUNK, Draw
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import classify


@pytest.fixture(scope="module")
def of_two_places():
    return exclusive_or()


@pytest.fixture(scope="module")
def of_chinese():
    return subject_of_text()


def logits_of(model, read, text, **options):
    inputs = read(text, return_tensors="pt", verbose=False)
    with lckernels.lengthened(model, read, **options), torch.no_grad():
        return model(**inputs).logits[0]


def test_a_class_that_depends_on_two_chunks(of_two_places):
    """Exactly one of two words: of four texts that truncation leaves alike, it classifies two rightly."""
    read, kinds = tokenizer(WORDS), torch.arange(4).repeat(10)
    texts = word_texts(kinds, 1)
    expected = [kind in (1, 2) for kind in kinds.tolist()]

    def right(**options):
        found = classify(of_two_places, read, texts, overlap=OVERLAP, **options)
        assert [one.kind for one in found] == ["multi"] * 40
        return [
            ("one of two" in one.chosen) == want for one, want in zip(found, expected, strict=True)
        ], found

    results, found = right()
    assert all(results) and {one.coverage for one in found} == {1.0}
    results, found = right(limit=CHUNK - 2)
    assert sum(results) <= 24 and max(one.coverage for one in found) < 0.7
    assert {one.num_tokens for one in found} == {CHUNK - 2}


def test_a_sentence_anywhere_in_a_chinese_text(of_chinese):
    read, draw, subjects = tokenizer(CHARACTERS), Draw(1), ["体育", "财经"] * 20
    texts, places = zip(*(chinese_text(subject, draw, last=45) for subject in subjects), strict=True)
    found = classify(of_chinese, read, list(texts), overlap=OVERLAP)
    assert [one.chosen for one in found] == [[subject] for subject in subjects]
    cut = classify(of_chinese, read, list(texts), overlap=OVERLAP, limit=CHUNK - 2)
    assert sum(one.chosen == [subject] for one, subject in zip(cut, subjects, strict=True)) <= 26
    for one, place, text in zip(found, places, texts, strict=True):
        assert one.num_tokens == len(text) == 90
        values = dict(zip(one.curve.positions, one.curve.values, strict=True))
        assert values[place + 3] > 0.95 or values[place] > 0.95  # a sentence may cross what a chunk keeps


def test_the_curve_is_the_score_of_each_chunk_by_itself(of_two_places):
    read = tokenizer(WORDS)
    (text,) = word_texts(torch.tensor([1]), 2)
    found = classify(of_two_places, read, text, overlap=OVERLAP)
    assert sorted(found.chosen) == ["b", "one of two"]
    ids = torch.tensor(read(text)["input_ids"])
    with torch.no_grad():
        first, last = (
            of_two_places(torch.cat([ids[:1], part, ids[-1:]])[None]).logits[0].sigmoid()
            for part in (ids[1:31], ids[21:51])
        )
    at = ["a", "b", "one of two"].index(found.labels[0].label)
    assert found.curve.values[:25] == pytest.approx([float(first[at])] * 25, abs=1e-5)
    assert found.curve.values[25:] == pytest.approx([float(last[at])] * 25, abs=1e-5)
    assert found.labels[0].label in found.curve.name


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "deberta_v2", "modernbert"])
def test_scores_are_those_of_the_lengthened_model(family):
    model, read = head_model(family, "SequenceClassification"), word_tokenizer()
    texts = [words(100), words(7), words(70, 1), words(30, 2)]
    found = classify(model, read, texts, overlap=8, batch=3)
    for one, text in zip(found, texts, strict=True):
        expected = logits_of(model, read, text, overlap=8).softmax(-1)
        scores = {label.label: label.score for label in one.labels}
        assert [scores[f"LABEL_{i}"] for i in range(3)] == pytest.approx(expected.tolist(), abs=1e-9)
        assert one.chosen == [f"LABEL_{int(expected.argmax())}"] == [one.labels[0].label]
        assert one.num_tokens == len(text.split()) and one.coverage == 1.0 and one.value is None
    assert found[1].curve.values == pytest.approx([found[1].labels[0].score] * 7)
    assert len(set(found[0].curve.values)) == 5  # chunks of 30 words, every 22
    with lckernels.lengthened(model, read, overlap=8):
        assert classify(model, read, texts, batch=3) == found
    assert "forward" not in encoder_of(model).__dict__
    assert classify(model, read, texts[0], overlap=8).labels[0].score == pytest.approx(
        found[0].labels[0].score
    )


def test_a_head_that_reads_the_mean_of_all_states_has_no_curve():
    model = head_model("modernbert", "SequenceClassification", classifier_pooling="mean")
    found = classify(model, word_tokenizer(), [words(100), words(9)], overlap=8)
    expected = logits_of(model, word_tokenizer(), words(100), overlap=8).softmax(-1)
    assert found[0].labels[0].score == pytest.approx(float(expected.max()), abs=1e-9)
    assert found[0].curve is None and found[1].curve is not None


@pytest.mark.parametrize(
    ("problem", "labels", "kind", "expected"),
    [
        (None, 3, "auto", "single"),
        (None, 1, "auto", "regression"),
        ("multi_label_classification", 1, "auto", "multi"),
        ("multi_label_classification", 3, "auto", "multi"),
        ("single_label_classification", 3, "auto", "single"),
        ("regression", 3, "auto", "regression"),
        ("regression", 3, "multi", "multi"),
        ("single_label_classification", 1, "regression", "regression"),
    ],
)
def test_kinds(problem, labels, kind, expected):
    model = head_model("bert", "SequenceClassification").float()
    model.num_labels = model.config.num_labels = labels
    model.classifier = torch.nn.Linear(16, labels)
    model.config.problem_type = problem
    text = words(80)
    logits = logits_of(model, word_tokenizer(), text, overlap=8)
    found = classify(model, word_tokenizer(), text, kind, threshold=0.6, overlap=8)
    assert found.kind == expected
    scores = {
        "single": logits.softmax(-1), "multi": logits.sigmoid(), "regression": logits,
    }[expected].tolist()  # fmt: skip
    names = [f"LABEL_{i}" for i in range(labels)]
    order = sorted(range(labels), key=lambda i: -scores[i])
    assert [label.label for label in found.labels] == [names[i] for i in order]
    assert [label.score for label in found.labels] == pytest.approx([scores[i] for i in order], abs=1e-6)
    chosen = {
        "single": [names[order[0]]],
        "multi": [names[i] for i in order if scores[i] >= 0.6],
        "regression": [],
    }
    assert found.chosen == chosen[expected]
    assert found.value == (found.labels[0].score if expected == "regression" and labels == 1 else None)


def test_in_peft():
    peft = pytest.importorskip("peft")
    model = head_model("bert", "SequenceClassification").float()
    expected = classify(model, word_tokenizer(), words(80), overlap=8)
    options = {"task_type": "SEQ_CLS", "target_modules": ["query"], "r": 2}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**options)).eval()
    assert classify(adapted, word_tokenizer(), words(80), overlap=8) == expected  # its second matrix is 0
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    found = classify(adapted, word_tokenizer(), words(80), overlap=8)
    assert found.labels != expected.labels and found.curve is not None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "binary"}, ValueError, "kind: got 'binary'; allowed are 'auto', 'single', 'multi'"),
        ({"threshold": 1.5}, ValueError, "threshold: got 1.5; expected a number from 0 to 1"),
        ({"threshold": "high"}, TypeError, "threshold: got 'high'; expected a number"),
        ({"text": " \n"}, ValueError, "text: got white space alone; expected a text"),
        ({"text": ["w7", 3]}, TypeError, r"text\[1\]: got int; expected a str"),
        ({"batch": 0}, ValueError, "batch: got 0"),
        ({"tokenizer": None}, TypeError, "tokenizer: got None; expected the model's fast tokenizer"),
        ({"head": "TokenClassification"}, TypeError, "without a head for sequence classification"),
        ({"labels": 1, "kind": "single"}, ValueError, "kind: got 'single' for a model of one label"),
        ({"train": True}, ValueError, "model: got BertFor.* in training mode"),
    ],
)
def test_bad_input(arguments, error, message):
    arguments = dict(arguments)
    model = head_model("bert", arguments.pop("head", "SequenceClassification")).float()
    if "labels" in arguments:
        model.num_labels = model.config.num_labels = arguments.pop("labels")
        model.classifier = torch.nn.Linear(16, 1)
    model.train(arguments.pop("train", False))
    given = {"tokenizer": word_tokenizer(), "text": " ".join(f"w{i}" for i in range(5, 20)), **arguments}
    with pytest.raises(error, match=message):
        classify(model, **given)


def test_fillers_are_known():
    """The tokenizer of the trained model has no unknown word in these texts."""
    assert tokenizer(WORDS).unk_token_id not in tokenizer(WORDS)(" ".join(FILLERS))["input_ids"]


def test_an_encoder_decoder_has_no_curve_of_chunks():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ids = {"pad_token_id": PAD, "eos_token_id": SEP, "decoder_start_token_id": PAD}
    model = transformers.T5ForSequenceClassification(transformers.T5Config(vocab_size=VOCAB, **sizes, **ids))
    tokenizer, text = word_tokenizer(32), words(100)
    found = classify(model.eval(), tokenizer, text)
    with lckernels.lengthened(model, tokenizer), torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False, verbose=False)
        expected = model(**inputs).logits.double().softmax(-1)
    assert found.curve is None
    assert found.labels[0].score == pytest.approx(float(expected.max()), abs=1e-6)
