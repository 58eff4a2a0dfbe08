"""Documents of sentences of filler words, into which a task writes its evidence.

The vocabulary of all tasks: special tokens, names, values, facts (a name with its value, as one word) and
filler words. Every draw comes from the generator that the caller passes, so that a seed
determines the documents.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PAD, CLS, SEP, MARKER = 0, 1, 2, 3
NUM_NAMES = NUM_VALUES = 8
NUM_FILLERS = 32
NAME = 4  # the first id of each kind
VALUE = NAME + NUM_NAMES
FACT = VALUE + NUM_VALUES
FILLER = FACT + NUM_NAMES * NUM_VALUES
VOCAB_SIZE = FILLER + NUM_FILLERS
SENTENCE = 8  # tokens of a sentence


@dataclass(frozen=True)
class Batch:
    """Documents, each with its question, label and evidence.

    Attributes:
        questions: (batch, question_len) int64, what is read before a document; question_len may be 0.
        documents: (batch, seqlen) int64, without special tokens.
        labels: (batch,) the class; (batch, 2) first and last token of the answer in the document; or
            (batch, target_len) the summary.
        evidence: (batch, num_evidence) the places in the document whose tokens the label depends on.
        candidates: (batch, num_candidates) first tokens of what the question could name, the answer among
            them; num_candidates is 0 where the label is no place.
    """

    questions: Tensor
    documents: Tensor
    labels: Tensor
    evidence: Tensor
    candidates: Tensor


def fillers(rng: np.random.Generator, num: int, length: int) -> np.ndarray:
    """(num, sentences, SENTENCE) filler words, each drawn uniformly.

    Raises:
        ValueError: `length` is no multiple of SENTENCE.
    """
    if length % SENTENCE:
        raise ValueError(f"length: got {length}; expected a multiple of {SENTENCE}")
    return rng.integers(FILLER, FILLER + NUM_FILLERS, (num, length // SENTENCE, SENTENCE))


def sentence_places(rng: np.random.Generator, num: int, sentences: int, count: int) -> np.ndarray:
    """(num, count) distinct sentences of each document, every order equally likely."""
    return np.argsort(rng.random((num, sentences)), axis=1)[:, :count]


def offsets(rng: np.random.Generator, shape: tuple[int, ...], width: int) -> np.ndarray:
    """Where in its sentence each span of `width` tokens begins, uniformly."""
    return rng.integers(0, SENTENCE - width + 1, shape)


def place_of(sentences: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """The places in the document of tokens `begin` of sentences; both have one shape."""
    return sentences * SENTENCE + begin


def batch_of(
    questions: np.ndarray,
    documents: np.ndarray,
    labels: np.ndarray,
    evidence: np.ndarray,
    candidates: np.ndarray | None = None,
) -> Batch:
    """The arrays as tensors; documents may be (batch, sentences, SENTENCE)."""
    num = len(documents)
    if candidates is None:
        candidates = np.zeros((num, 0), dtype=np.int64)
    arrays = (questions, documents.reshape(num, -1), labels, evidence, candidates)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(x, dtype=np.int64)) for x in arrays))


def without_evidence(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with filler words in place of its evidence."""
    documents = batch.documents.clone()
    words = rng.integers(FILLER, FILLER + NUM_FILLERS, tuple(batch.evidence.shape))
    documents.scatter_(1, batch.evidence, torch.from_numpy(words))
    return Batch(batch.questions, documents, batch.labels, batch.evidence, batch.candidates)
