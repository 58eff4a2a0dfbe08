"""The tasks by name: their documents, sizes, chance, and the ways that are compared on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.long_tasks import ways
from bench.long_tasks.data import agreement, answer, recall, sentence, summary
from bench.long_tasks.data.documents import NUM_NAMES, NUM_VALUES, SENTENCE, Batch
from bench.long_tasks.ways import CONTENT, Way

Generate = Callable[[np.random.Generator, int, int], Batch]


@dataclass(frozen=True)
class Stage:
    """Steps of training on documents of one length.

    Attributes:
        length: tokens of a document.
        batch: documents of a step.
        steps: optimizer steps.
        learning_rate: the largest; it rises in the first twentieth of the steps and falls as a cosine.
    """

    length: int
    batch: int
    steps: int
    learning_rate: float = 3e-3


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
        short: training on documents of at most a chunk, which the ways of a class share.
        long: training on documents of several chunks, each way its own.
    """

    name: str
    title: str
    generate: Generate
    num_classes: int
    chance: float
    length: int
    ways: tuple[Way, ...]
    short: tuple[Stage, ...]
    long: tuple[Stage, ...]

    def repeated(self, times: int) -> "Task":
        """The task with `times` the steps of training on long documents."""
        long = tuple(replace(stage, steps=stage.steps * times) for stage in self.long)
        return replace(self, long=long)


_LENGTH, _FAR = 512, 3200
_SHORT = (Stage(CONTENT, 32, 200),)
_SHORT_FACTS = (Stage(CONTENT, 64, 150),)
_SHORT_ANSWERS = (Stage(CONTENT, 32, 300),)
_LONG = (Stage(_LENGTH, 8, 50, 1e-3),)
_LONG_FACTS = (Stage(2 * CONTENT, 16, 100, 2e-3), *_LONG)
_SHORT_PAIRS = (Stage(2 * SENTENCE, 32, 100), Stage(CONTENT, 32, 60))
_LONG_PAIRS = (
    Stage(2 * CONTENT, 16, 120, 2e-3),
    Stage(256, 8, 40, 2e-3),
    Stage(1024, 4, 40, 1e-3),
    Stage(_FAR, 2, 20, 1e-3),
)
_SORTED_CHANCE = (21 + 12 + 21) / 56 / 3  # the likeliest first, middle and last of 3 of 8 values: of 56 sets
_ALL = (
    Task(
        "recall", "Key-value recall, encoder", recall.recall, NUM_VALUES, 1 / NUM_VALUES,
        _LENGTH, ways.classification(), _SHORT_FACTS, _LONG_FACTS,
    ),
    Task(
        "recall-causal", "Key-value recall, decoder", recall.recall, NUM_VALUES,
        1 / NUM_VALUES, _LENGTH, ways.causal(NUM_VALUES), _SHORT_FACTS, _LONG,
    ),
    Task(
        "sentence", "Class by a sentence anywhere", sentence.sentence, sentence.NUM_CLASSES,
        1 / sentence.NUM_CLASSES, _LENGTH, ways.classification(), _SHORT, _LONG,
    ),
    Task(
        "answer", "Answer span named by the question", answer.answer, 0, 1 / NUM_NAMES,
        _LENGTH, ways.question_answering(), _SHORT_ANSWERS, _LONG,
    ),
    Task(
        "agreement", "Two mentions 3,000 tokens apart", agreement.agreement, agreement.NUM_CLASSES, 0.5,
        _FAR, ways.agreement(), _SHORT_PAIRS, _LONG_PAIRS,
    ),
    Task("copy", "Copy, T5", summary.copy, 0, 1 / NUM_VALUES, _LENGTH, ways.summarization(), _SHORT, _LONG),
    Task("sort", "Sort, T5", summary.sort, 0, _SORTED_CHANCE, _LENGTH, ways.summarization(), _SHORT, _LONG),
)  # fmt: skip
TASKS = {task.name: task for task in _ALL}
