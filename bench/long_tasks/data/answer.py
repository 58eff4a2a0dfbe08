"""Question answering: the question is a name; the answer is it and the values after it in the document."""

import numpy as np

from bench.long_tasks.data.documents import (
    NAME,
    NUM_NAMES,
    NUM_VALUES,
    VALUE,
    Batch,
    batch_of,
    fillers,
    offsets,
    place_of,
    sentence_places,
)

WIDEST = 3  # tokens of an answer


def answer(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents with one fact per name: the name and one or two values, then filler words.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length)
    names = rng.permuted(np.tile(np.arange(NUM_NAMES), (num, 1)), axis=1)
    values = rng.integers(VALUE, VALUE + NUM_VALUES, (num, NUM_NAMES, WIDEST - 1))
    widths = rng.integers(2, WIDEST + 1, (num, NUM_NAMES))
    sentences = sentence_places(rng, num, documents.shape[1], NUM_NAMES)
    begin = offsets(rng, sentences.shape, WIDEST)
    rows = np.arange(num)[:, None]
    documents[rows, sentences, begin] = NAME + names
    for i in range(1, WIDEST):
        filler = documents[rows, sentences, begin + i]
        documents[rows, sentences, begin + i] = np.where(i < widths, values[..., i - 1], filler)
    first = place_of(sentences, begin)
    labels = first[:, :1] + np.stack([np.zeros(num, dtype=np.int64), widths[:, 0] - 1], axis=1)
    evidence = np.minimum(first[:, :1] + np.arange(WIDEST), labels[:, 1:])
    return batch_of(NAME + names[:, :1], documents, labels, evidence, first)
