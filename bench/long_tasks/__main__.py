"""`python -m bench.long_tasks FOLDER [--task NAME] [--quick]` trains every way of a task; writes tables."""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from bench.harness import rows
from bench.long_tasks import table, train
from bench.long_tasks.tasks import TASKS, Task

LONGER = 8  # times the steps on long documents, where the run is not quick


def measure(task: Task, num: int, seed: int, folder: Path) -> None:
    """Trains and evaluates each way of a task; appends a row per way to the folder's file.

    Args:
        task: the task.
        num: documents that accuracy is measured on.
        seed: of weights and documents.
        folder: where the rows are written.
    """
    trained: dict[Any, torch.nn.Module] = {}
    for way in task.ways:
        begin = time.process_time()
        if way.build not in trained:  # the ways of one class start from one model
            trained[way.build] = train.short_model(task, way, task.short, seed)
        model = train.long_model(task, way, trained[way.build], task.long, seed)
        found = table.binned(train.evaluate(model, way, task, task.length, num, seed))
        row = {"task": task.name, "way": way.name, "length": task.length, "chance": task.chance, **found}
        row |= {"seed": seed, "stages": [vars(stage) for stage in (*task.short, *task.long)]}
        row |= {"cpu_seconds": time.process_time() - begin}
        row |= {"machine": rows.machine(), "versions": rows.versions(), **rows.commit()}
        table.append(row, folder)
        print(f"{task.name:15} {way.name:28} {found['accuracy']:.3f} {row['cpu_seconds']:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("`")[2].rpartition("` ")[2])
    parser.add_argument("folder", type=Path, help="where long_tasks.jsonl and long_tasks.md are written")
    parser.add_argument("--task", choices=list(TASKS), help="this task alone")
    parser.add_argument("--quick", action="store_true", help=f"1/{LONGER} of the steps on long documents")
    parser.add_argument("--documents", type=int, default=256, help="that accuracy is measured on, per way")
    parser.add_argument("--seed", type=int, default=0, help="of weights and documents")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    for name in [options.task] if options.task else TASKS:
        task = TASKS[name].repeated(1 if options.quick else LONGER)
        measure(task, options.documents, options.seed, options.folder)
    text = table.markdown(table.read(options.folder))
    (options.folder / "long_tasks.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
