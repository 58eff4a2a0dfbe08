"""Key-value recall: the question is a name; the value after that name in the document is the class.

Values are drawn independently of each other, so the other facts of a document have no information about the answer.
"""

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

NUM_FACTS = NUM_CLASSES = 8


def recall(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents with one fact per name, each in a sentence of its own; the first fact is the one in question.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length)
    names = rng.permuted(np.tile(np.arange(NUM_FACTS), (num, 1)), axis=1)
    values = rng.integers(0, NUM_CLASSES, (num, NUM_FACTS))
    values[:, 0] = rng.permutation(np.arange(num) % NUM_CLASSES)
    sentences = sentence_places(rng, num, documents.shape[1], NUM_FACTS)
    begin = offsets(rng, (num, NUM_FACTS), 2)
    rows = np.arange(num)[:, None]
    documents[rows, sentences, begin] = NAME + names
    documents[rows, sentences, begin + 1] = VALUE + values
    first = sentences * documents.shape[2] + begin
    evidence = first[:, :1] + np.arange(2)
    return batch_of(NAME + names[:, :1], documents, values[:, 0], evidence)
