"""Threads that share one model: each has the result that it has alone, and the model is as before."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.head_models import head_model
from helpers.word_tokenizer import word_tokenizer, words
from torch import nn

from lckernels.long.parts import find_parts
from lckernels.tasks import answer, classify, tag
from lckernels.tasks.classification.watch import Watch
from lckernels.tasks.model_lock import model_lock

pytest.importorskip("transformers")

TEXTS = [words(60 + 30 * i, i) for i in range(6)]
TASKS = {
    "QuestionAnswering": lambda model, tokenizer, text: answer(model, tokenizer, "w5 w6", text),
    "TokenClassification": lambda model, tokenizer, text: tag(model, tokenizer, text, "IO"),
    "SequenceClassification": classify,
}


@pytest.mark.parametrize("head", TASKS)
def test_each_thread_has_its_result(head):
    model, tokenizer, task = head_model("bert", head).float(), word_tokenizer(), TASKS[head]
    expected = [task(model, tokenizer, text) for text in TEXTS]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(2):
            assert list(pool.map(lambda text: task(model, tokenizer, text), TEXTS)) == expected
    assert not find_parts(model).is_lengthened and tokenizer.model_max_length == 32


def test_two_heads_over_one_encoder():
    """A thread each: the encoder that both change is that of one call at a time."""
    tagger, classifier = (
        head_model("bert", head).float() for head in ("TokenClassification", "SequenceClassification")
    )
    tagger.bert = classifier.bert
    tokenizer = word_tokenizer()
    assert model_lock(tagger) is model_lock(classifier) is model_lock(classifier.bert)
    tasks = [
        lambda text: TASKS["TokenClassification"](tagger, tokenizer, text),
        lambda text: classify(classifier, tokenizer, text),
    ] * 3
    expected = [task(text) for task, text in zip(tasks, TEXTS, strict=True)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(2):
            assert list(pool.map(lambda task, text: task(text), tasks, TEXTS)) == expected
    assert not find_parts(tagger).is_lengthened and tokenizer.model_max_length == 32


def test_a_model_without_an_encoder_has_a_lock_of_its_own():
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    assert model_lock(first) is model_lock(first) is not model_lock(second)


def test_a_watch_begins_while_no_task_runs():
    model, tokenizer = head_model("bert", "SequenceClassification").float(), word_tokenizer()
    with ThreadPoolExecutor(1) as pool:
        with model_lock(model):
            made = pool.submit(Watch, model, tokenizer)
            with pytest.raises(TimeoutError):
                made.result(timeout=0.5)
        assert made.result(timeout=60).num_tokens == 0


def test_a_lock_is_that_of_one_model():
    first, second = head_model("bert", "TokenClassification"), head_model("bert", "TokenClassification")
    assert model_lock(first) is model_lock(first) is not model_lock(second)
    assert model_lock(None) is not model_lock(None)
