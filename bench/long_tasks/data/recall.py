"""Key-value recall: the question is a name; the value of that name, once in the document, is the class.

Values are drawn independently of each other, so the other facts of a document have no information about it.
"""

import numpy as np

from bench.long_tasks.data.documents import (
    FACT,
    NAME,
    NUM_NAMES,
    NUM_VALUES,
    Batch,
    batch_of,
    fillers,
    offsets,
    place_of,
    sentence_places,
)


def recall(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents with one fact per name, each in a sentence of its own; the first fact is the one in question.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length)
    names = rng.permuted(np.tile(np.arange(NUM_NAMES), (num, 1)), axis=1)
    values = rng.integers(0, NUM_VALUES, (num, NUM_NAMES))
    values[:, 0] = rng.permutation(np.arange(num) % NUM_VALUES)
    sentences = sentence_places(rng, num, documents.shape[1], NUM_NAMES)
    begin = offsets(rng, sentences.shape, 1)
    documents[np.arange(num)[:, None], sentences, begin] = FACT + names * NUM_VALUES + values
    first = place_of(sentences, begin)
    return batch_of(NAME + names[:, :1], documents, values[:, 0], first[:, :1])
