"""The command answer."""

from typing import Annotated

import typer

from lckernels.cli.console import require_extras
from lckernels.cli.options import (
    BatchOption,
    Dtype,
    DtypeOption,
    FilesArgument,
    HtmlOption,
    JsonOption,
    LimitOption,
    QuantizeOption,
    QuietOption,
    TaskModelOption,
    ThreadsOption,
)
from lckernels.cli.sources import read_sources_and_question
from lckernels.cli.task_model import EXTRAS, run_task
from lckernels.files import check_place


def answer(
    files: FilesArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.", show_default=False)],
    model: TaskModelOption,
    top: Annotated[int, typer.Option(min=1, help="Most answers of a text.")] = 5,
    no_answer: Annotated[
        bool,
        typer.Option(
            "--no-answer/--must-answer",
            help="Whether a text may have no answer. --must-answer: for models that were trained without.",
        ),
    ] = True,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 30,
    chunk_len: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a chunk, special tokens and question included.",
            show_default="384, at most the model's positions",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="Tokens that neighbouring chunks share.", show_default="128; a quarter of a shorter chunk"
        ),
    ] = None,
    batch: BatchOption = 8,
    limit: LimitOption = None,
    dtype: DtypeOption = Dtype.float32,
    quantize: QuantizeOption = False,
    html: HtmlOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print the parts of each FILE that answer the QUESTION best.

    A file is read in chunks, each with the question, whose states are merged. The answers are searched over
    the whole file at once.
    """
    require_extras(EXTRAS)
    sources = read_sources_and_question(files, question)
    if html is not None:
        check_place(html, "page")
    from lckernels.cli.pages.answer import answer_page
    from lckernels.cli.reports.answer import as_json, print_answers
    from lckernels.cli.task_results import write_results
    from lckernels.tasks.answering.answer import answer as answers
    from lckernels.tasks.reader import QUESTION_ANSWERING

    options = {
        "top_k": top,
        "no_answer": no_answer,
        "max_answer_tokens": max_answer_tokens,
        "chunk_len": chunk_len,
        "overlap": overlap,
        "batch": batch,
        "limit": limit,
    }
    found = run_task(
        answers,
        QUESTION_ANSWERING.kind,
        model,
        sources,
        options,
        question=question,
        dtype=dtype,
        quantize=quantize,
        threads=threads,
        quiet=quiet,
    )
    results = list(zip(sources.texts, found, strict=True))
    write_results(
        lambda: as_json(question, model, results),
        lambda: print_answers(results, quiet),
        lambda: answer_page(question, model, results),
        html=html,
        json=json,
        quiet=quiet,
    )
