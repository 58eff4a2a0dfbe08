"""The tasks by name: their documents, sizes, chance, and the ways that are compared on them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.long_tasks import ways
from bench.long_tasks.data import agreement, answer, recall, sentence, summary
from bench.long_tasks.data.documents import NUM_NAMES, NUM_VALUES, Batch
from bench.long_tasks.ways import Way

Generate = Callable[[np.random.Generator, int, int], Batch]


@dataclass(frozen=True)
class Task:
    """A task and what is compared on it.

    Attributes:
        name: of the task.
        title: in the table.
        generate: (generator, documents, tokens of each) -> a batch.
        num_classes: of the label; 0 where the label is no class.
        chance: accuracy of the best answer without the evidence, per piece of evidence.
        length: tokens of a document.
        ways: compared on the task.
    """

    name: str
    title: str
    generate: Generate
    num_classes: int
    chance: float
    length: int
    ways: tuple[Way, ...]


_LENGTH, _FAR = 512, 3200
_SORTED_CHANCE = (21 + 12 + 21) / 56 / 3  # the likeliest first, middle and last of 3 of 8 values: of 56 sets
_ALL = (
    Task(
        "recall", "Key-value recall, encoder", recall.recall, NUM_VALUES, 1 / NUM_VALUES,
        _LENGTH, ways.classification(),
    ),
    Task(
        "recall-causal", "Key-value recall, decoder", recall.recall, NUM_VALUES,
        1 / NUM_VALUES, _LENGTH, ways.causal(NUM_VALUES),
    ),
    Task(
        "sentence", "Class by a sentence anywhere", sentence.sentence, sentence.NUM_CLASSES,
        1 / sentence.NUM_CLASSES, _LENGTH, ways.classification(),
    ),
    Task(
        "answer", "Answer span named by the question", answer.answer, 0, 1 / NUM_NAMES,
        _LENGTH, ways.question_answering(),
    ),
    Task(
        "agreement", "Two mentions 3,000 tokens apart", agreement.agreement, agreement.NUM_CLASSES, 0.5,
        _FAR, ways.agreement(),
    ),
    Task("copy", "Copy, T5", summary.copy, 0, 1 / NUM_VALUES, _LENGTH, ways.summarization()),
    Task("sort", "Sort, T5", summary.sort, 0, _SORTED_CHANCE, _LENGTH, ways.summarization()),
)  # fmt: skip
TASKS = {task.name: task for task in _ALL}
