"""Agreement of two mentions that are far apart: a document has two names; the class is whether they agree."""

import numpy as np

from bench.long_tasks.data.documents import NAME, SENTENCE, Batch, batch_of, fillers

NUM_CLASSES = 2
NUM_NAMES = 2


def agreement(rng: np.random.Generator, num: int, length: int) -> Batch:
    """Documents whose two names are `distance(length)` tokens apart; half of the pairs agree.

    The place of the first name is uniform over the rest of the document. All names are equally frequent in
    both places and in both classes.

    Args:
        rng: the generator of all draws.
        num: documents.
        length: tokens of each.
    """
    documents = fillers(rng, num, length).reshape(num, length)
    cases = rng.permutation(np.arange(num) % (NUM_CLASSES * NUM_NAMES))
    labels, first_name = cases % NUM_CLASSES, cases // NUM_CLASSES
    other = (first_name + rng.integers(1, NUM_NAMES, num)) % NUM_NAMES
    first = rng.integers(0, length - distance(length), num)
    evidence = np.stack([first, first + distance(length)], axis=1)
    names = NAME + np.stack([first_name, np.where(labels == 1, first_name, other)], axis=1)
    np.put_along_axis(documents, evidence, names, axis=1)
    return batch_of(np.zeros((num, 0)), documents, labels, evidence)


def distance(length: int) -> int:
    """Tokens from the first mention to the second, in documents of `length` tokens: 15 sixteenths of it."""
    return length * 15 // 16 // SENTENCE * SENTENCE
