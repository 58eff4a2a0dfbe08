"""The command evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from lckernels.cli.console import print_json, require_extras, show_progress
from lckernels.cli.options import (
    BatchOption,
    ChunkLenOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LimitOption,
    OverlapOption,
    QuantizeOption,
    QuietOption,
    TaskModelOption,
    ThreadsOption,
)
from lckernels.cli.task_model import EXTRAS, input_errors, load_task_model
from lckernels.errors import InputError


def evaluate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="SQuAD or CMRC 2018 JSON, CoNLL columns, CLUENER or IFLYTEK JSON lines.",
            show_default=False,
        ),
    ],
    model: TaskModelOption,
    format: Annotated[
        str, typer.Option(help="squad, cmrc, conll, cluener, iflytek; auto: as the file looks.")
    ] = "auto",
    scheme: Annotated[
        str | None,
        typer.Option(
            help="What a tagger's labels mean, for entities: auto (default), BIO, IOB1, BIOES or IO.",
            show_default=False,
        ),
    ] = None,
    chunk_len: ChunkLenOption = None,
    overlap: OverlapOption = None,
    batch: BatchOption = 8,
    limit: LimitOption = None,
    dtype: DtypeOption = Dtype.float32,
    quantize: QuantizeOption = False,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print the standard score of a model on the examples in FILE.

    Documents are read whole. The score is also printed by the length of the document, and by the distance of
    the evidence from its start: the right answer, or each entity.
    """
    require_extras(EXTRAS)
    from lckernels.cli.reports.evaluate import as_json, print_evaluation
    from lckernels.tasks.evaluation.evaluate import head_of, score_examples
    from lckernels.tasks.evaluation.formats import read_examples
    from lckernels.tasks.reader import TOKEN_CLASSIFICATION

    try:
        name, examples = read_examples(file, format)
    except ValueError as error:
        raise InputError(f"--{error}" if str(error).startswith("format:") else str(error)) from None
    head = head_of(examples)
    if scheme is not None and head is not TOKEN_CLASSIFICATION:
        raise InputError(
            f"--scheme: got {scheme!r} for a file of the format {name}; expected one of entities"
        )
    network, tokenizer = load_task_model(model, head.name, head.example, dtype, threads, quantize=quantize)
    options = {"chunk_len": chunk_len, "overlap": overlap, "batch": batch, "limit": limit}
    if scheme is not None:
        options["scheme"] = scheme
    with input_errors(model, [file] * len(examples), options):
        found = score_examples(network, tokenizer, name, examples, **options, progress=show_progress(quiet))
    if json:
        print_json({"model": model, "file": str(file), **as_json(found)})
    else:
        print_evaluation(found)
