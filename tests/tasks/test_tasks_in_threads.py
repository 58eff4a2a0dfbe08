"""Threads that share one model: each has the result that it has alone, and the model is as before."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.head_models import head_model
from helpers.word_tokenizer import word_tokenizer, words

from lckernels.long.parts import find_parts
from lckernels.tasks import answer, classify, tag
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


def test_a_lock_is_that_of_one_model():
    first, second = head_model("bert", "TokenClassification"), head_model("bert", "TokenClassification")
    assert model_lock(first) is model_lock(first) is not model_lock(second)
    assert model_lock(None) is not model_lock(None)
