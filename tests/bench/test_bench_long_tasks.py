"""bench.long_tasks: what the documents contain, what each way can see, and that a small training learns."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from bench.long_tasks.data import agreement
from bench.long_tasks.data.documents import (
    FACT,
    FILLER,
    MARKER,
    NAME,
    NUM_NAMES,
    NUM_VALUES,
    VALUE,
    without_evidence,
)
from bench.long_tasks.tasks import TASKS

DATA = {name: TASKS[name] for name in ("recall", "sentence", "answer", "agreement", "copy", "sort")}
CLASSES = ("recall", "sentence", "agreement")
LENGTH = 256


def generated(task, num=4096, length=LENGTH, seed=0):
    return task.generate(np.random.default_rng(seed), num, length)


def tensors(batch):
    return vars(batch).values()


@pytest.mark.parametrize("name", DATA)
def test_a_seed_determines_the_documents(name):
    first, again, other = (generated(DATA[name], 8, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(again), strict=True))
    assert not torch.equal(first.documents, other.documents)


@pytest.mark.parametrize("name", DATA)
def test_evidence_is_uniform_over_the_document(name):
    """Each eighth of the document has an eighth of the evidence, within four standard deviations."""
    evidence = generated(DATA[name]).evidence
    space = LENGTH - agreement.distance(LENGTH) if name == "agreement" else LENGTH
    place = evidence if name in ("copy", "sort") else evidence[:, :1]
    counts = torch.histc(place.float(), 8, 0, space)
    assert (counts - place.numel() / 8).abs().max() < 4 * (place.numel() / 8) ** 0.5


@pytest.mark.parametrize("name", CLASSES)
def test_labels_are_balanced(name):
    counts = torch.bincount(generated(DATA[name]).labels, minlength=DATA[name].num_classes)
    assert len(counts) == DATA[name].num_classes and counts.max() - counts.min() <= 1


def test_the_evidence_determines_the_label():
    recall, sentence, pair = (generated(DATA[name], 64) for name in CLASSES)
    facts = recall.documents.gather(1, recall.evidence) - FACT
    assert torch.equal(facts, (recall.questions - NAME) * NUM_VALUES + recall.labels[:, None])
    written = (recall.documents[recall.documents < FILLER] - FACT).view(64, NUM_NAMES) // NUM_VALUES
    assert torch.equal(written.sort(1).values, torch.arange(NUM_NAMES).expand(64, -1))
    marked = sentence.documents.gather(1, sentence.evidence)
    assert (marked[:, 0] == MARKER).all() and torch.equal(marked[:, 1] - VALUE, sentence.labels)
    assert (sentence.documents == MARKER).sum(1).eq(1).all()
    names = pair.documents.gather(1, pair.evidence)
    assert torch.equal((names[:, 0] == names[:, 1]).long(), pair.labels)
    assert ((pair.documents < FILLER).sum(1) == 2).all()
    assert (pair.evidence[:, 1] - pair.evidence[:, 0]).unique().tolist() == [agreement.distance(LENGTH)]


def test_two_mentions_are_3000_tokens_apart():
    assert agreement.distance(TASKS["agreement"].length) == 3000


def test_an_answer_is_the_name_and_its_values():
    batch = generated(DATA["answer"], 64)
    for question, document, (start, end) in zip(batch.questions, batch.documents, batch.labels, strict=True):
        assert document[start] == question and (document == question).sum() == 1
        assert ((document[start + 1 : end + 1] >= VALUE) & (document[start + 1 : end + 1] < FACT)).all()
        assert end + 1 == LENGTH or not VALUE <= document[end + 1] < FACT
    assert (batch.candidates == batch.labels[:, :1]).sum(1).eq(1).all()


def test_summaries_are_the_values_of_the_document():
    copied, ordered = generated(DATA["copy"], 64), generated(DATA["sort"], 64)
    for batch in (copied, ordered):
        assert torch.equal(batch.documents.gather(1, batch.evidence), batch.labels)
        assert (batch.documents < FILLER).sum(1).eq(batch.labels.shape[1]).all()
    assert (copied.evidence.diff(dim=1) > 0).all() and (ordered.labels.diff(dim=1) > 0).all()


def fitted_accuracy(batch):
    """Accuracy on the second half of a naive Bayes classifier of word pairs, fitted on the first half."""
    low = batch.documents.clamp(max=FILLER)  # filler words are one word
    pairs = low[:, :-1] * (FILLER + 1) + low[:, 1:]
    features = torch.zeros(len(low), (FILLER + 1) ** 2).scatter_(1, pairs, 1.0)
    half, classes = len(low) // 2, int(batch.labels.max()) + 1
    per_class = torch.stack([features[:half][batch.labels[:half] == i].mean(0) for i in range(classes)])
    odds = torch.logit(per_class.clamp(1e-3, 1 - 1e-3))
    guess = (features[half:] @ odds.T + torch.log1p(-per_class.clamp(1e-3, 1 - 1e-3)).sum(1)).argmax(1)
    return (guess == batch.labels[half:]).float().mean().item()


@pytest.mark.parametrize("name", CLASSES)
def test_a_document_without_its_evidence_has_no_information(name):
    """Accuracy is that of permuted labels; with the evidence the same classifier finds the sentence."""
    batch = generated(DATA[name])
    bare = without_evidence(batch, np.random.default_rng(1))
    kept = torch.ones_like(batch.documents, dtype=torch.bool).scatter_(1, batch.evidence, False)
    assert torch.equal(bare.documents[kept], batch.documents[kept])
    chance, spread = DATA[name].chance, (DATA[name].chance / (len(batch.labels) / 2)) ** 0.5
    assert abs(fitted_accuracy(bare) - chance) < 4 * spread
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(0))
    permuted = type(batch)(batch.questions, batch.documents, batch.labels[order], *list(tensors(batch))[3:])
    assert abs(fitted_accuracy(permuted) - chance) < 4 * spread
    if name == "sentence":
        assert fitted_accuracy(batch) > 0.9


def test_chance_of_a_summary_is_the_best_constant():
    for name in ("copy", "sort"):
        labels = generated(DATA[name], 20_000).labels
        best = [torch.bincount(column).max().item() / len(labels) for column in labels.T]
        assert sum(best) / len(best) == pytest.approx(DATA[name].chance, abs=0.01)
