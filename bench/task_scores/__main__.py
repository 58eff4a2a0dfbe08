"""Trains a tiny model per task, and scores each way on long documents by the place of the evidence.

`python -m bench.task_scores --page docs/tasks.md` writes the table into the page, between its two marks.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bench.task_scores import models, texts
from bench.task_scores.texts import Generate
from bench.task_scores.ways import WAYS

BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
LENGTH, BINS = 512, 8
TASKS: dict[str, tuple[str, Generate, Callable[[int, int], nn.Module], int]] = {
    "answer": ("Answers, exact spans", texts.answers, models.reader, 2500),
    "tag": ("Entities, exact spans and types (recall)", texts.tags, models.tagger, 400),
}


def scores(task: str, model: nn.Module, num: int, seed: int) -> dict[str, list[float]]:
    """For each way the share of evidence that is found, and that of each eighth of the document, percent.

    The second item is the share of what it found that is right.
    """
    tokenizer, generate = texts.tokenizer(), TASKS[task][1]
    rng = np.random.default_rng(seed + (1 << 20))
    documents = [generate(rng, LENGTH) for _ in range(num)]
    rows = {}
    for name, way in WAYS[task].items():
        right, total, returned = [0] * BINS, [0] * BINS, 0
        for document in documents:
            found = way(model, tokenizer, document)
            returned += len(found)
            for part in document.parts:
                place = part.start * BINS // LENGTH
                total[place] += 1
                right[place] += part in found
        share = [100 * one / max(1, other) for one, other in zip(right, total, strict=True)]
        rows[name] = [100 * sum(right) / sum(total), 100 * sum(right) / max(1, returned), *share]
    return rows


def table(task: str, rows: dict[str, list[float]]) -> str:
    heads = ["way", "all", *(["precision"] if task == "tag" else [])]
    heads += [str(i * LENGTH // BINS) for i in range(BINS)]
    lines = [f"**{TASKS[task][0]}** (`{task}`)", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, values in rows.items():
        kept = values if task == "tag" else [values[0], *values[2:]]
        lines.append(f"| {' | '.join([name, *(f'{value:.0f}' for value in kept)])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, action="append", help="default: all")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of training; default: those of the task")
    parser.add_argument("--page", type=Path, help="write the tables between the marks of this page")
    options = parser.parse_args()
    tables = []
    for task in options.task or TASKS:
        begin = time.perf_counter()
        _, _, train, steps = TASKS[task]
        model = train(options.steps or steps, options.seed)
        trained = time.perf_counter() - begin
        tables.append(table(task, scores(task, model, options.documents, options.seed)))
        print(f"{tables[-1]}\n{trained:.0f} s of training, torch {torch.__version__}\n", flush=True)
    if options.page is not None:
        before, _, rest = options.page.read_text("utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        body = "\n".join(tables)
        options.page.write_text(f"{before}{BEGIN}\n\n{body}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
