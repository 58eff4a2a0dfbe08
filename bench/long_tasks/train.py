"""A plain loop: AdamW from random weights, on documents that are generated as they are read."""

import copy
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import nn

from bench.long_tasks import models
from bench.long_tasks.tasks import Stage, Task
from bench.long_tasks.ways import Way

EVALUATION = 1 << 20  # added to the seed of the documents that accuracy is measured on


def train(model: nn.Module, way: Way, task: Task, stage: Stage, seed: int) -> list[float]:
    """Trains the model in place; returns the loss of each step.

    Args:
        model: as `way.change` leaves it.
        way: how it reads.
        task: whose documents it learns.
        stage: their length and number.
        seed: of the documents.
    """
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate)
    losses = []
    model.train()
    for rate in _rates(stage):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = way.loss(model, task.generate(rng, stage.batch, stage.length))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@torch.no_grad()
def evaluate(
    model: nn.Module, way: Way, task: Task, length: int, num: int, seed: int, batch: int = 32
) -> dict[str, list[float]]:
    """What the way answers on `num` documents that training has not read.

    Returns:
        lists with an item per piece of evidence: "place" (of its first token, a fraction of the document),
        "correct" (0 or 1) and "seen" (0 or 1, whether the scores can depend on the evidence).
    """
    rng = np.random.default_rng(seed + EVALUATION)
    found: dict[str, list[float]] = {"place": [], "correct": [], "seen": []}
    model.eval()
    for begin in range(0, num, batch):
        documents = task.generate(rng, min(batch, num - begin), length)
        correct = way.correct(model, documents)
        seen = way.sees(documents).expand_as(correct)
        found["place"] += (documents.evidence[:, : correct.shape[1]] / length).flatten().tolist()
        found["correct"] += correct.float().flatten().tolist()
        found["seen"] += seen.float().flatten().tolist()
    return found


def short_model(task: Task, way: Way, stages: Iterable[Stage], seed: int) -> nn.Module:
    """A model trained on documents of one chunk, where all ways that have its class are one computation."""
    model = models.seeded(way.build, task.num_classes, seed)
    for i, stage in enumerate(stages):
        train(model, way, task, stage, seed + i)
    return model


def long_model(task: Task, way: Way, short: nn.Module, stages: Iterable[Stage], seed: int) -> nn.Module:
    """A copy of `short` that reads in this way, trained on documents of several chunks."""
    model = copy.deepcopy(short)
    way.change(model)
    for i, stage in enumerate(stages):
        train(model, way, task, stage, seed + 100 + i)
    return model


def _rates(stage: Stage) -> Iterator[float]:
    rising = max(1, stage.steps // 20)
    for step in range(stage.steps):
        falling = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        yield stage.learning_rate * min(1.0, (step + 1) / rising) * falling
