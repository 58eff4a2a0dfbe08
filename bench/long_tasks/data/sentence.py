"""Classification by one sentence: the value after the marker is the class; other values have no meaning."""

import numpy as np

from bench.long_tasks.data.documents import (
    MARKER,
    VALUE,
    Batch,
    batch_of,
    fillers,
    offsets,
    place_of,
    sentence_places,
)

NUM_CLASSES = 4
NUM_OTHERS = 3


def sentence(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents with one marked value and `NUM_OTHERS` values without a marker, each in its sentence.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length)
    labels = rng.permutation(np.arange(num) % NUM_CLASSES)
    others = rng.integers(0, NUM_CLASSES, (num, NUM_OTHERS))
    sentences = sentence_places(rng, num, documents.shape[1], 1 + NUM_OTHERS)
    begin = offsets(rng, sentences.shape, 2)
    rows = np.arange(num)
    documents[rows[:, None], sentences, begin + 1] = VALUE + np.concatenate([labels[:, None], others], 1)
    documents[rows, sentences[:, 0], begin[:, 0]] = MARKER
    first = place_of(sentences, begin)[:, :1]
    return batch_of(np.zeros((num, 0)), documents, labels, first + np.arange(2))
