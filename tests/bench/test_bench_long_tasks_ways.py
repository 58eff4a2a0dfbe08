"""The ways of bench.long_tasks: what the scores of each can depend on; spans, chunks and summaries."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from bench.long_tasks import models, readings, summaries, ways
from bench.long_tasks.data.documents import FILLER, PAD, SEP, Batch
from bench.long_tasks.readings import NONE, Pieces
from bench.long_tasks.tasks import TASKS

LENGTH = 256
PAIRS = [(name, way) for name in ("recall", "recall-causal", "sentence") for way in TASKS[name].ways]


def generated(name, num, length=LENGTH, seed=0):
    return TASKS[name].generate(np.random.default_rng(seed), num, length)


def changed_model(way, num_classes):
    model = models.seeded(way.build, num_classes, 0).eval()
    way.change(model)
    return model


def with_other_evidence(batch):
    """The same documents with other words as evidence."""
    words = FILLER + torch.arange(batch.evidence.shape[1]).expand_as(batch.evidence)
    documents = batch.documents.scatter(1, batch.evidence, words)
    return Batch(batch.questions, documents, batch.labels, batch.evidence, batch.candidates)


@pytest.mark.parametrize(("name", "way"), PAIRS, ids=[f"{name}-{way.name}" for name, way in PAIRS])
def test_scores_depend_on_seen_evidence_alone(name, way):
    """Another word in the last place of the evidence changes the scores of a row where it can be seen.

    The maximum over chunks may be that of another chunk.
    """
    batch = generated(name, 32)
    last = Batch(*list(vars(batch).values())[:3], batch.evidence[:, -1:], batch.candidates)
    model = changed_model(way, TASKS[name].num_classes)
    with torch.no_grad():
        first, second = (way.scores(model, x) for x in (last, with_other_evidence(last)))
    seen = way.sees(last)[:, 0]
    differs = (first != second).any(1)
    assert differs.any() and not (differs & ~seen).any()
    assert torch.equal(differs, seen) or "max" in way.name
    if way.name.startswith(("windowed", "truncated")):
        assert 0 < seen.sum() < len(seen)


def test_windowed_answers_beyond_the_reach_do_not_depend_on_the_question():
    (way,) = (way for way in TASKS["answer"].ways if way.name == "windowed")
    batch = generated("answer", 8)
    model = changed_model(way, 0)
    with torch.no_grad():
        first, second = (
            readings.spans(model, q, batch.documents) for q in (batch.questions, batch.questions + 1)
        )
    differs = (first != second).any(-1)
    assert differs[:, : ways.REACH - 1].all() and not differs[:, ways.REACH - 1 :].any()


def mentions(first, second, length=LENGTH):
    """A row of `agreement` with these names in place, and the batch."""
    batch = generated("agreement", 1, length)
    documents = batch.documents.scatter(1, batch.evidence, torch.tensor([[first, second]]) + 4)
    return Batch(batch.questions, documents, batch.labels, batch.evidence, batch.candidates)


def scores_of_mentions(name):
    """[first][second] -> (num_classes,) scores in float64, for names 0 and 1 in both places."""
    (way,) = (way for way in TASKS["agreement"].ways if way.name == name)
    model = changed_model(way, 2).double()
    with torch.no_grad():
        return [[way.scores(model, mentions(first, second))[0] for second in (0, 1)] for first in (0, 1)]


@pytest.mark.parametrize("name", ["lengthened, head per token", "windowed, head per token"])
def test_a_head_per_token_cannot_compare_two_mentions(name):
    """The scores at the second mention depend on that mention alone, in chunks and with a window."""
    (equal, other), (again, both) = scores_of_mentions(name)
    assert torch.equal(equal, again) and torch.equal(other, both) and not torch.equal(equal, other)


@pytest.mark.parametrize(
    "name, is_a_sum", [("per chunk, mean of scores", True), ("lengthened, head on [CLS]", False)]
)
def test_the_mean_of_scores_is_a_sum_over_mentions(name, is_a_sum):
    """score(a, a) + score(b, b) = score(a, b) + score(b, a): such scores cannot separate equal names."""
    (equal, other), (again, both) = scores_of_mentions(name)
    assert ((equal + both - other - again).abs().max() < 1e-9) == is_a_sum


@pytest.mark.parametrize("seqlen, num_chunks", [(64, 1), (40, 1), (65, 2), (160, 3), (512, 11)])
def test_chunks_cover_the_document(seqlen, num_chunks):
    documents = torch.arange(seqlen)[None]
    chunks, starts = Pieces(64, 16).of(documents)
    assert len(starts) == num_chunks and chunks.unique().tolist() == list(range(seqlen))
    assert torch.equal(chunks[0, :, 0], starts)


def test_scores_of_places_are_the_highest_of_the_chunks():
    def read(model, questions, chunks):  # the score of a token is its place in its chunk
        return torch.arange(chunks.shape[1]).expand(len(chunks), -1)[..., None].float()

    found = readings.merged_places(read, Pieces(8, 2))(None, torch.zeros(1, 0), torch.zeros(1, 14))
    assert found[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6, 7]


def test_the_best_span_is_no_longer_than_allowed():
    scores = torch.tensor([-20.0, 0.0]).expand(1, 6, 2).clone()
    scores[0, 1, 0], scores[0, 5, 1], scores[0, 3, 1], scores[0, 0, 1] = 3, 9, 2, 5
    assert readings.best_spans(scores, 3).tolist() == [[1, 3]]
    assert readings.best_spans(scores, 5).tolist() == [[1, 5]]
    assert readings.best_spans(torch.full((1, 4, 2), NONE), 3).tolist() == [[0, 0]]


def test_words_of_chunks_are_those_whose_evidence_they_have():
    labels, evidence = torch.tensor([[30, 20, 25]]), torch.tensor([[9, 1, 3]])
    batch = Batch(torch.zeros(1, 0).long(), torch.arange(12)[None], labels, evidence, torch.zeros(1, 0))
    chunks, found = summaries.chunk_labels(batch, Pieces(4, 0))
    assert chunks.shape == (3, 4)
    assert found.tolist() == [[20, 25, SEP, -100], [SEP, -100, -100, -100], [30, SEP, -100, -100]]


def test_words_of_chunks_are_joined_once_each():
    found = torch.tensor([[20, 21, PAD], [21, PAD, PAD], [22, 23, PAD]])
    assert summaries.joined(found, 1, 3).tolist() == [[20, 21, 22]]
    assert summaries.joined(found[1:2], 1, 3).tolist() == [[21, PAD, PAD]]


def test_the_order_of_distant_chunks_is_unknown_to_a_decoder():
    """Without overlap, the loss of a lengthened T5 does not change with the order of a document's chunks."""
    (way,) = (way for way in TASKS["copy"].ways if way.name == "lengthened")
    model = models.seeded(way.build, 0, 0).eval()
    ways.lckernels.lengthen(model, chunk_len=65, overlap=0, special_tokens=(0, 1), prefix=None)
    batch = generated("copy", 2)
    order = torch.tensor([2, 0, 1, 3])  # the state of [SEP] is that in the last chunk
    moved = batch.documents.view(2, 4, 64)[:, order].flatten(1)
    labels = summaries.with_end(batch.labels)
    with torch.no_grad():
        want, found = (summaries.loss(model, documents, labels) for documents in (batch.documents, moved))
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
