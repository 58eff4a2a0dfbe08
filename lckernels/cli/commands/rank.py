"""The command rank."""

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
from lckernels.cli.sources import read_sources_and_question
from lckernels.cli.task_model import EXTRAS, run_task
from lckernels.files import check_place


def rank(
    files: FilesArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="In quotes.", show_default=False)],
    model: TaskModelOption,
    top: Annotated[int | None, typer.Option(min=1, help="Most texts to print.", show_default="all")] = None,
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
    """Print the FILEs by their relevance to the QUERY, the best first, with a cross-encoder.

    A file is read in chunks, each with the query, whose states are merged; the model's head runs once on the
    whole.
    """
    require_extras(EXTRAS)
    sources = read_sources_and_question(files, query, "query")
    if html is not None:
        check_place(html, "page")
    from lckernels.cli.pages.rank import rank_page
    from lckernels.cli.reports.rank import as_json, print_ranked
    from lckernels.cli.task_results import write_results
    from lckernels.tasks.ranking.rank import rank as ranked
    from lckernels.tasks.reader import SEQUENCE_CLASSIFICATION

    options = {
        "top_k": top,
        "chunk_len": chunk_len,
        "overlap": overlap,
        "batch": batch,
        "limit": limit,
    }
    found = run_task(
        ranked,
        SEQUENCE_CLASSIFICATION.kind,
        model,
        sources,
        options,
        question=query,
        dtype=dtype,
        quantize=quantize,
        threads=threads,
        quiet=quiet,
    )
    results = [(sources.texts[one.index], one) for one in found]
    write_results(
        lambda: as_json(query, model, results),
        lambda: print_ranked(results, quiet),
        lambda: rank_page(query, model, results, len(sources.texts)),
        html=html,
        json=json,
        quiet=quiet,
    )
