"""The command tag."""

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


def tag(
    files: FilesArgument,
    model: TaskModelOption,
    scheme: Annotated[
        str,
        typer.Option(help="What the labels mean: auto reads BIO, BIOES or IO off their names; or IOB1, IO."),
    ] = "auto",
    words: Annotated[
        str,
        typer.Option(
            help="The label of a word: that of its first token (first), of the mean of its tokens (mean), or "
            "one of each token (none)."
        ),
    ] = "first",
    top: Annotated[
        int, typer.Option(min=0, help="Most entities of a text in its table; --json and --html have all.")
    ] = 100,
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
    """Print the named entities of each FILE, in the order of the text.

    A file is read in chunks whose states are merged. Its labels are searched over the whole file at once, so
    that no entity is cut at the edge of a chunk.
    """
    require_extras(EXTRAS)
    sources = read_sources(files)
    if html is not None:
        check_place(html, "page")
    from lckernels.cli.pages.tag import tag_page
    from lckernels.cli.reports.tag import as_json, print_tags
    from lckernels.cli.task_results import write_results
    from lckernels.tasks.reader import TOKEN_CLASSIFICATION
    from lckernels.tasks.tagging.tag import tag as tags

    options = {
        "scheme": scheme,
        "words": words,
        "chunk_len": chunk_len,
        "overlap": overlap,
        "batch": batch,
        "limit": limit,
    }
    found = run_task(
        tags,
        TOKEN_CLASSIFICATION.kind,
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
        lambda: print_tags(results, top, quiet),
        lambda: tag_page(model, results),
        html=html,
        json=json,
        quiet=quiet,
    )
