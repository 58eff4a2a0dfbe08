"""bench.task_scores: evidence has its stated place, ways find what a perfect model returns, tables."""

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

from bench.task_scores import __main__ as scores  # noqa: E402
from bench.task_scores import models, texts  # noqa: E402
from bench.task_scores.texts import SPAN_WORDS, TITLES, Document, Part  # noqa: E402
from bench.task_scores.ways import OVERLAP, WAYS  # noqa: E402


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("length", [120, 512])
def test_documents_have_their_evidence(length, rng):
    for generate in (texts.answers, texts.tags):
        for _ in range(20):
            document = generate(rng, length)
            assert len(document.words) == length
            for part in document.parts:
                inside = document.words[part.start : part.end]
                assert SPAN_WORDS[0] <= len(inside) <= SPAN_WORDS[1]
                assert all(word.startswith("v") for word in inside)
                before = document.words[part.start - 1]
                if document.question:
                    assert (before, document.words[part.end]) == (texts.OPEN, texts.CLOSE)
                    assert document.words[part.start - 2] == document.question.replace("q", "n")
                else:
                    assert before == part.label in TITLES
    assert SPAN_WORDS[1] > OVERLAP  # so that chunks cut some


class Oracle(torch.nn.Module):
    """Labels of tags as they are: the type is that of the last title in the same row, if there is one."""

    def __init__(self):
        super().__init__()
        self.config = transformers.PretrainedConfig(id2label=dict(enumerate(models.TAGS)))

    def forward(self, input_ids, attention_mask):
        logits, title = torch.zeros(*input_ids.shape, len(models.TAGS)), None
        for i, token in enumerate(input_ids[0].tolist()):
            word, label = texts.WORDS[token], 0
            if word in TITLES:
                title, begins = word, True
            elif word.startswith("v") and title is not None:
                label = models.TAGS.index(f"{'B' if begins else 'I'}-{title}")
                begins = False
            else:
                title = None
            logits[0, i, label] = 9.0
        return transformers.modeling_outputs.TokenClassifierOutput(logits=logits)


def test_ways_of_chunks_find_what_one_chunk_shows(rng):
    tokenizer, words = texts.tokenizer(), texts._fillers(rng, 150)
    words[10:14] = ["person", "v1", "v2", "v3"]  # in the first chunk
    words[58:66] = ["place", *(f"v{i}" for i in range(7))]  # its title is in both chunks, its end in one
    document = Document(words, [Part(11, 14, "person"), Part(59, 66, "place")])
    ways = WAYS["tag"]
    assert ways["truncated"](Oracle(), tokenizer, document) == {document.parts[0], Part(59, 62, "place")}
    for name in ("chunks, longest entity (transformers' stride)", "chunks, surest entity (GLiNER2)"):
        assert document.parts[0] in ways[name](Oracle(), tokenizer, document)
    longest = ways["chunks, longest entity (transformers' stride)"](Oracle(), tokenizer, document)
    assert longest == {*document.parts}


def test_a_row_per_way(monkeypatch):
    monkeypatch.setattr(scores, "LENGTH", 160)
    for task in scores.TASKS:
        model = scores.TASKS[task][2](2, 0)
        rows = scores.scores(task, model, 2, 0)
        assert list(rows) == list(WAYS[task]) and all(len(row) == 10 for row in rows.values())
        assert scores.table(task, rows).count("\n") == 4 + len(rows)


def test_the_page_has_marks_for_the_tables():
    from helpers.docs_pages import ROOT

    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    assert page.count(scores.BEGIN) == page.count(scores.END) == 1
    assert page.index(scores.BEGIN) < page.index(scores.END)
