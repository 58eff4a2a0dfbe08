"""The command classify."""

from typing import Annotated

import typer

from lckernels.cli.console import require_extras
from lckernels.cli.options import (
    BatchOption,
    ChunkLenOption,
    Dtype,
    DtypeOption,
    FilesArgument,
    HtmlOption,
    JsonOption,
    LimitOption,
    OverlapOption,
    QuantizeOption,
    QuietOption,
    TaskModelOption,
    ThreadsOption,
)
from lckernels.cli.sources import read_sources
from lckernels.cli.task_model import EXTRAS, run_task
from lckernels.files import check_place


def classify(
    files: FilesArgument,
    model: TaskModelOption,
    kind: Annotated[
        str,
        typer.Option(
            help="single: one class of several; multi: each class for itself; regression: a number; auto: as "
            "the model's config has it."
        ),
    ] = "auto",
    threshold: Annotated[float, typer.Option(help="With multi: least score of a chosen class.")] = 0.5,
    chunk_len: ChunkLenOption = None,
    overlap: OverlapOption = None,
    batch: BatchOption = 8,
    limit: LimitOption = None,
    dtype: DtypeOption = Dtype.float32,
    quantize: QuantizeOption = False,
    html: HtmlOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print the classes of each FILE with their scores.

    A file is read in chunks whose states are merged, and the model's head runs once on the whole.
    """
    require_extras(EXTRAS)
    sources = read_sources(files)
    if html is not None:
        check_place(html, "page")
    from lckernels.cli.pages.classify import classify_page
    from lckernels.cli.reports.classify import as_json, print_classes
    from lckernels.cli.task_results import write_results
    from lckernels.tasks.classification.classify import classify as classes
    from lckernels.tasks.reader import SEQUENCE_CLASSIFICATION

    options = {
        "kind": kind,
        "threshold": threshold,
        "chunk_len": chunk_len,
        "overlap": overlap,
        "batch": batch,
        "limit": limit,
    }
    found = run_task(
        classes,
        SEQUENCE_CLASSIFICATION.kind,
        model,
        sources,
        options,
        dtype=dtype,
        quantize=quantize,
        threads=threads,
        quiet=quiet,
    )
    results = list(zip(sources.texts, found, strict=True))
    write_results(
        lambda: as_json(model, results),
        lambda: print_classes(results, quiet),
        lambda: classify_page(model, results),
        html=html,
        json=json,
        quiet=quiet,
    )
