"""Summaries of whole documents: two words far apart, which no chunk has together, by a model trained here."""

import pytest
import torch
from helpers.trained_models import Draw, train
from helpers.word_map import CHINESE, ENGLISH, VOCABULARY, tokenizer, untrained

import lckernels
from lckernels.long.parts import find_parts
from lckernels.tasks import rewrite

transformers = pytest.importorskip("transformers")

FILLERS = [*(f"v{i}" for i in range(8)), *"ABCDEFGH"]
FIRST_ID, SECOND_ID, FILLER_ID = (VOCABULARY.index(word) for word in (ENGLISH[0], CHINESE[0], FILLERS[0]))
FIRST, SECOND = [f"u{i}" for i in range(8)], list("abcdefgh")  # what is written for each


@pytest.fixture(scope="module")
def model():
    """A text of at most 15 words -> the translation of its English word, then of its Chinese one."""
    draw = Draw()

    def batch(rows: int = 64) -> dict[str, torch.Tensor]:
        length, column = draw(4, 15, rows, 1), torch.arange(16).expand(rows, -1)
        ids = FILLER_ID + draw(0, len(FILLERS), *column.shape)
        first, second = draw(0, 8, rows), draw(0, 8, rows)
        at = torch.stack([torch.randperm(int(n), generator=draw.generator)[:2] for n in length], 1)
        ids.scatter_(1, at.T, torch.stack([FIRST_ID + first, SECOND_ID + second], 1))
        ids = torch.where(column == length, 1, ids)
        is_token = column <= length
        written = [VOCABULARY.index(FIRST[0]) + first, VOCABULARY.index(SECOND[0]) + second]
        return {
            "input_ids": ids * is_token,
            "attention_mask": is_token.long(),
            "labels": torch.stack([*written, torch.ones_like(first)], 1),
        }

    return train(untrained, batch, 150)


def documents(count=20, length=150):
    """Texts with one English and one Chinese word among fillers, and their summaries."""
    draw = Draw(5)
    for _ in range(count):
        words = [FILLERS[i] for i in draw(0, len(FILLERS), length).tolist()]
        first, second = draw(0, 8, 2).tolist()
        at = int(draw(0, length // 2, 1)), int(draw(length // 2, length, 1))
        words[at[0]], words[at[1]] = ENGLISH[first], CHINESE[second]
        yield " ".join(words), f"{FIRST[first]} {SECOND[second]}"


def test_merged_states_summarize_what_no_chunk_has(model):
    texts, expected = zip(*documents(), strict=True)
    found = rewrite(model, tokenizer(), texts, "summarize")
    assert sum(one.text == summary for one, summary in zip(found, expected, strict=True)) >= 19
    assert all((one.coverage, one.num_tokens, one.missing) == (1.0, 150, []) for one in found)
    assert [(part.start, part.end, part.text) for part in found[0].parts] == [
        (0, len(texts[0]), found[0].text)
    ]
    chunks = [" ".join(text.split()[i : i + 15]) for text in texts for i in range(0, 150, 15)]
    by_chunk = [one.text for one in rewrite(model, tokenizer(), chunks, "summarize", batch=200)]
    reached = (summary in by_chunk[10 * i : 10 * i + 10] for i, summary in enumerate(expected))
    assert sum(reached) <= 8


def test_it_is_generate_of_the_lengthened_model(model):
    texts = [text for text, _ in documents(3)] + ["River."]
    options = {"chunk_len": 14, "overlap": 6}
    found = rewrite(model, tokenizer(), texts, "summarize", **options, num_beams=2)
    assert not find_parts(model).is_lengthened and found[3].num_tokens == 2
    with lckernels.lengthened(model, tokenizer(), **options):
        for text, one in zip(texts, found, strict=True):
            row = tokenizer()(text, return_tensors="pt")
            ids = model.generate(**row, num_beams=2, max_new_tokens=15)
            assert one.text == tokenizer().decode(ids[0], skip_special_tokens=True)
        assert rewrite(model, tokenizer(), texts, "summarize", num_beams=2) == found


def test_every_chunk_reads_the_prefix(model):
    text, _ = next(documents(1))
    found = rewrite(model, tokenizer(), text, "summarize", prefix="Letter: ", chunk_len=14)
    with lckernels.lengthened(model, tokenizer(), chunk_len=14, prefix="Letter: "):
        row = tokenizer()(f"Letter: {text}", return_tensors="pt")
        ids = model.generate(**row, max_new_tokens=15)
    assert found.text == tokenizer().decode(ids[0], skip_special_tokens=True)
    assert (found.num_tokens, found.coverage) == (150, 1.0)


def test_limits(model):
    text, _ = next(documents(1))
    found = rewrite(model, tokenizer(), text, "summarize", limit=15, max_new_tokens=1)
    read = len("".join(text.split()[:15])) / len("".join(text.split()))
    assert (found.num_tokens, found.coverage) == (15, pytest.approx(read))
    assert [part.problem for part in found.missing] == ["stopped after 1 tokens, before an end"]


def test_the_most_new_tokens_are_the_models_own(model, monkeypatch):
    text, _ = next(documents(1))
    monkeypatch.setattr(model.generation_config, "max_length", 2)
    assert rewrite(model, tokenizer(), text, "summarize").missing
    assert not rewrite(model, tokenizer(), text, "summarize", max_length=4).missing
