"""A model trained here: answers that no chunk contains, and answers chosen between chunks.

The peer is the pipeline of transformers 4: each chunk is decoded alone from start and end scores that are
normalised within it, and the best of the chunks' spans is kept.
"""

import math

import pytest
import torch
from helpers.graded_answers import LEAD, begin_mark, end_mark, key_word, text_of, train_model
from helpers.null_scores import first_score, null_scores
from helpers.trained_models import CHUNK, chunk_ranges, chunk_rows
from helpers.word_tokenizer import word_tokenizer

import lckernels
from lckernels.tasks import answer

OVERLAP, LENGTH, MAX_TOKENS = 6, 120, 40


@pytest.fixture(scope="module")
def model():
    return train_model()


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def answered(model, tokenizer, key, texts, **options):
    return answer(
        model, tokenizer, f"w{key_word(key)}", texts, overlap=OVERLAP, max_answer_tokens=MAX_TOKENS, **options
    )


def words_of(found, text):
    """The first and the last word of an answer."""
    first = len(text[: found.start].split())
    return first, first + len(found.text.split()) - 1


def by_chunk(model, tokenizer, key, text):
    """The best of the spans that each chunk alone decodes, as the pipeline of transformers 4 chooses it."""
    row = tokenizer(f"w{key_word(key)}", text, return_tensors="pt", verbose=False)
    ids, types = row["input_ids"], row["token_type_ids"]
    spans = []
    for start, stop in chunk_ranges(ids.shape[1], LEAD, OVERLAP):
        with torch.no_grad():
            columns = chunk_rows(ids, LEAD, (start, stop)), chunk_rows(types, LEAD, (start, stop))
            output = model(columns[0], token_type_ids=columns[1])
        of_start, of_end = (x[0, LEAD:-1].softmax(0) for x in (output.start_logits, output.end_logits))
        scores = (of_start[:, None] * of_end).triu().tril(MAX_TOKENS - 1)
        score, at = scores.flatten().max(0)
        first, last = divmod(int(at), len(of_start))
        spans.append((float(score), (start - LEAD + first, start - LEAD + last)))
    return max(spans)[1]


def test_an_answer_that_no_chunk_contains(model, tokenizer):
    """Its begin is in one chunk and its end in the next; each chunk has a worse one, of a lower grade."""
    places = [(18, 35), (20, 44), (15, 40), (40, 62), (60, 85), (80, 118)]
    texts = [
        text_of(
            {4: begin_mark(0, 0), 6: end_mark(0, 0), first: begin_mark(0, 3), last: end_mark(0, 3)},
            LENGTH,
            seed,
        )
        for seed, (first, last) in enumerate(places)
    ]
    ranges = chunk_ranges(LEAD + LENGTH + 1, LEAD, OVERLAP)
    for first, last in places:
        assert not any(start <= LEAD + first and LEAD + last < stop for start, stop in ranges)
    results = answered(model, tokenizer, 0, texts)
    for found, text, place in zip(results, texts, places, strict=True):
        assert words_of(found.answers[0], text) == place and found.best == found.answers[0]
        assert by_chunk(model, tokenizer, 0, text) != place
    # The same answers within one chunk, which both find.
    marks = {4: begin_mark(1, 2), 6: end_mark(1, 2), 9: end_mark(1, 1)}
    text = text_of(marks, CHUNK - LEAD - 1)
    assert words_of(answered(model, tokenizer, 1, text).best, text) == (4, 6)
    assert by_chunk(model, tokenizer, 1, text) == (4, 6)


def test_an_answer_is_chosen_between_chunks(model, tokenizer):
    """One chunk has the right answer twice, three others have a worse one each.

    Normalised within its chunk, each of the two has half of the probability, and a worse one nearly all.
    """
    sites = [(4, 8), (34, 37), (51, 54), (105, 108)]
    ranges = chunk_ranges(LEAD + LENGTH + 1, LEAD, OVERLAP)
    for first, last in sites:  # each with its copy behind it
        begin, end = LEAD + first, LEAD + last + 6
        assert any(start <= begin and end < stop for start, stop in ranges)
    for seed in range(8):
        key, right = seed % 2, sites[seed % 4]
        twice = [right, (right[1] + 2, right[1] + 6)]
        marks = {}
        for grade, (first, last) in enumerate(site for site in sites if site != right):
            marks |= {first: begin_mark(key, grade), last: end_mark(key, grade)}
        for first, last in twice:
            marks |= {first: begin_mark(key, 3), last: end_mark(key, 3)}
        text = text_of(marks, LENGTH, seed)
        found = words_of(answered(model, tokenizer, key, text).answers[0], text)
        assert found in [*twice, (right[0], twice[1][1])], seed
        assert by_chunk(model, tokenizer, key, text) in {*sites} - {right}, seed


def test_a_text_without_an_answer(model, tokenizer):
    """The other key's marks are there; the answers are spans all the same, and "no answer" is likelier."""
    marks = {10: begin_mark(1, 3), 15: end_mark(1, 3), 70: begin_mark(1, 2), 72: end_mark(1, 2)}
    texts = [text_of(marks, length) for length in (20, LENGTH, 400)]
    for text, found in zip(texts, answered(model, tokenizer, 0, texts), strict=True):
        assert found.best is None and found.no_answer > 0.9
        assert found.answers and all(x.text for x in found.answers)
        assert answered(model, tokenizer, 0, text, no_answer=False).best is not None
    for found in answered(model, tokenizer, 1, texts):
        assert found.best == found.answers[0] and found.no_answer < 0.1


def test_one_chunk_of_twenty_has_the_answer(model, tokenizer):
    """Of the lowest grade: its score is above the smallest null score of the chunks, and below their mean."""
    length = 28 + 19 * 22  # tokens of content of a chunk, and how many each further one adds
    places = [(3, 6), (150, 157), (230, 240), (length - 9, length - 2)]
    texts = [
        text_of({first: begin_mark(0, 0), last: end_mark(0, 0)}, length, seed)
        for seed, (first, last) in enumerate(places)
    ]
    for text, place, found in zip(texts, places, answered(model, tokenizer, 0, texts), strict=True):
        scores = null_scores(model, tokenizer, f"w{key_word(0)}", text, overlap=OVERLAP)
        assert len(scores) == 20
        assert found.best is not None and words_of(found.best, text) == place
        row = tokenizer(f"w{key_word(0)}", text, return_tensors="pt", verbose=False)
        with lckernels.lengthened(model, tokenizer, overlap=OVERLAP), torch.no_grad():
            merged = model(**row)
        top = float(merged.start_logits[0, LEAD + place[0]] + merged.end_logits[0, LEAD + place[1]])
        assert float(first_score(merged)) > top  # with the mean there would be no answer
        assert math.log(found.no_answer / found.best.score) == pytest.approx(min(scores) - top, abs=1e-3)
    for found in answered(model, tokenizer, 1, texts):  # of the other key there is no mark
        assert found.best is None and found.no_answer > 0.5
