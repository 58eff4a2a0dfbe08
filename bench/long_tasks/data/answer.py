"""Question answering: the question is a name; the answer is the two or three values after it in the document."""

import numpy as np

from bench.long_tasks.data.documents import (
    NAME,
    VALUE,
    Batch,
    batch_of,
    fillers,
    offsets,
    sentence_places,
)

NUM_FACTS = 8
NUM_VALUES = 16
WIDEST = 3  # values of an answer


def answer(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents with one fact per name; each is the name and two or three values, then filler words.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length)
    names = rng.permuted(np.tile(np.arange(NUM_FACTS), (num, 1)), axis=1)
    values = rng.integers(VALUE, VALUE + NUM_VALUES, (num, NUM_FACTS, WIDEST))
    widths = rng.integers(WIDEST - 1, WIDEST + 1, (num, NUM_FACTS))
    sentences = sentence_places(rng, num, documents.shape[1], NUM_FACTS)
    begin = offsets(rng, sentences.shape, 1 + WIDEST)
    rows = np.arange(num)[:, None]
    documents[rows, sentences, begin] = NAME + names
    for i in range(WIDEST):
        filler = documents[rows, sentences, begin + 1 + i]
        documents[rows, sentences, begin + 1 + i] = np.where(i < widths, values[..., i], filler)
    first = sentences * documents.shape[2] + begin + 1
    labels = first[:, :1] + np.stack([np.zeros(num, dtype=np.int64), widths[:, 0] - 1], axis=1)
    evidence = np.minimum(first[:, :1] + np.arange(-1, WIDEST), labels[:, 1:])
    return batch_of(NAME + names[:, :1], documents, labels, evidence, first)
