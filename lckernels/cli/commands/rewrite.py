"""The command rewrite."""

from enum import StrEnum
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
    QuietOption,
    TaskModelOption,
    ThreadsOption,
)
from lckernels.cli.sources import check_language, read_sources
from lckernels.cli.task_model import EXTRAS, run_task
from lckernels.files import check_place

_KIND = "translations and summaries", "AutoModelForSeq2SeqLM"


class Task(StrEnum):
    """What is written, as in `lckernels.tasks.rewrite`."""

    translate = "translate"
    summarize = "summarize"


def rewrite(
    files: FilesArgument,
    model: TaskModelOption,
    task: Annotated[Task, typer.Option(help="Translate each sentence, or write one summary.")] = (
        Task.translate
    ),
    prefix: Annotated[
        str | None,
        typer.Option(
            help='What the model reads before each part, such as "translate English to German: ".',
            show_default="nothing",
        ),
    ] = None,
    src_lang: Annotated[
        str | None,
        typer.Option(help="The text's language, as a code of the tokenizer.", show_default="its own"),
    ] = None,
    tgt_lang: Annotated[
        str | None,
        typer.Option(help="The language to write, as a code of the tokenizer.", show_default="none"),
    ] = None,
    language: Annotated[
        str,
        typer.Option(help="ISO 639 code for finding sentences; en finds Chinese ones too."),
    ] = "en",
    sentences_per_group: Annotated[
        int, typer.Option(min=0, help="Most sentences translated at once; 0: as many as fit.")
    ] = 1,
    context_sentences: Annotated[
        int, typer.Option(min=0, help="Sentences before them that are read and not translated again.")
    ] = 0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Most tokens of an output.", show_default="by the length of the source"),
    ] = None,
    num_beams: Annotated[
        int | None, typer.Option(min=1, help="Beams of the search.", show_default="of the model's config")
    ] = None,
    chunk_len: Annotated[
        int | None,
        typer.Option(
            help="Tokens that the encoder reads at once, prefix and special tokens included.",
            show_default="all positions of the encoder, at most the tokenizer's limit",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            help="For a summary, tokens that neighbouring chunks share.", show_default="a quarter of a chunk"
        ),
    ] = None,
    batch: BatchOption = 8,
    limit: LimitOption = None,
    dtype: DtypeOption = Dtype.float32,
    html: HtmlOption = None,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print a translation of each FILE with its layout, or a summary of the whole FILE.

    Parts that may be incomplete are listed on stderr.
    """
    require_extras(EXTRAS | {"sentencex": "hf"})
    check_language(language)
    sources = read_sources(files)
    if html is not None:
        check_place(html, "page")
    from lckernels.cli.pages.rewrite import rewrite_page
    from lckernels.cli.reports.rewrite import as_json, print_rewritten
    from lckernels.cli.task_results import write_results
    from lckernels.tasks.rewriting.rewrite import rewrite as rewritten

    generation = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    options = {
        "task": task.value,
        "prefix": prefix,
        "src_lang": src_lang,
        "tgt_lang": tgt_lang,
        "language": language,
        "sentences_per_group": sentences_per_group or None,
        "context_sentences": context_sentences,
        "chunk_len": chunk_len,
        "overlap": overlap,
        "batch": batch,
        "limit": limit,
        **{name: value for name, value in generation.items() if value is not None},
    }
    found = run_task(
        rewritten, _KIND, model, sources, options, dtype=dtype, threads=threads, quiet=quiet, fast=False
    )
    results = list(zip(sources.texts, found, strict=True))
    write_results(
        lambda: as_json(task.value, model, results),
        lambda: print_rewritten(results, quiet),
        lambda: rewrite_page(task.value, model, results),
        html=html,
        json=json,
        quiet=quiet,
    )
