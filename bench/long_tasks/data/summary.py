"""Summaries: the values of a document, in the document's order (copy) or in increasing order (sort)."""

import numpy as np

from bench.long_tasks.data.documents import (
    NUM_VALUES,
    VALUE,
    Batch,
    batch_of,
    fillers,
    offsets,
    place_of,
    sentence_places,
)

NUM_ITEMS = 3


def copy(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents with `NUM_ITEMS` distinct values; the label has them in the order of the document.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length)
    values = VALUE + sentence_places(rng, num, NUM_VALUES, NUM_ITEMS)
    sentences = np.sort(sentence_places(rng, num, documents.shape[1], NUM_ITEMS), axis=1)
    begin = offsets(rng, sentences.shape, 1)
    documents[np.arange(num)[:, None], sentences, begin] = values
    return batch_of(np.zeros((num, 0)), documents, values, place_of(sentences, begin))


def sort(rng: np.random.Generator, num: int, length: int) -> Batch:
    """As `copy`, with the values in increasing order; the evidence is in that order too."""
    batch = copy(rng, num, length)
    labels, order = batch.labels.sort(1)
    evidence = batch.evidence.gather(1, order)
    return batch_of(*(x.numpy() for x in (batch.questions, batch.documents, labels, evidence)))
