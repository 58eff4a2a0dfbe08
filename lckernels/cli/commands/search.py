"""The command search."""

from pathlib import Path
from typing import Annotated

import typer

from lckernels.cli.console import printable, remarks, require_extras, show_progress, stdout
from lckernels.cli.encoder import EXTRAS, load_encoder, states_beside
from lckernels.cli.figures.common import check_figure_path
from lckernels.cli.figures.search import plot_search
from lckernels.cli.options import (
    Boundaries,
    BoundariesOption,
    ChunkLenOption,
    Dtype,
    DtypeOption,
    FileArgument,
    LanguageOption,
    Merge,
    MergeOption,
    ModelOption,
    OverlapOption,
    QuietOption,
    ThreadsOption,
    Weights,
    WeightsOption,
)
from lckernels.cli.reports.search import print_passages
from lckernels.cli.reports.states import print_figures
from lckernels.errors import InputError
from lckernels.long.text_encoder import DEFAULT_MODEL
from lckernels.search.encoding import load_or_encode
from lckernels.search.passages import passage_vectors, split_passages
from lckernels.search.saved_states import check_target
from lckernels.search.text import read_text


def search(
    file: FileArgument,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What to look for.", show_default=False)
    ],
    model: ModelOption = DEFAULT_MODEL,
    top: Annotated[int, typer.Option(min=1, help="How many passages to print.")] = 5,
    passage_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of a passage, which is made of whole sentences.")
    ] = 128,
    chunk_len: ChunkLenOption = None,
    overlap: OverlapOption = None,
    weights: WeightsOption = Weights.triangular,
    boundaries: BoundariesOption = Boundaries.sled,
    merge: MergeOption = Merge.final,
    dtype: DtypeOption = Dtype.float32,
    language: LanguageOption = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the states as FILE.safetensors; take them from there if they fit."),
    ] = False,
    states: Annotated[
        Path | None, typer.Option(help="As --keep, but in this file.", show_default=False, metavar="PATH")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Where the picture goes: .png, .svg, .pdf, .jpg.",
            show_default="FILE's name with .search.png, in this folder",
            metavar="PATH",
        ),
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")] = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print the passages of FILE that fit the QUESTION best, and draw the similarity along the text.

    The file is read once, chunk by chunk, into one hidden state per token.

    A passage's vector is the mean of its tokens; its score is the cosine similarity to the question.
    """
    require_extras(EXTRAS if no_plot else {**EXTRAS, "matplotlib": "cli"})
    _check_question(question)
    text = read_text(file)
    saved = states or (states_beside(file) if keep else None)
    if saved is not None:
        check_target(saved)
    picture = None if no_plot else plot or Path(f"{file.stem}.search.png")
    if picture is not None:
        check_figure_path(picture)
    encoder = load_encoder(model, threads, chunk_len, overlap, weights, boundaries, merge, dtype)
    language = language or text.language()
    found, reused = load_or_encode(text, encoder, language, saved, show_progress(quiet), remarks(quiet))
    passages = split_passages(text.content, found.offsets, language, passage_tokens)
    scores = passage_vectors(found.states, passages) @ encoder.embed(question)
    best = scores.topk(min(top, len(passages))).indices
    print_passages(text, passages, scores, best)
    if not quiet:
        print_figures(found, reused)
        stdout.print(f"{len(passages):,} passages, {len(best)} printed")
    if picture is not None:
        plot_search(picture, text, question, passages.chars, scores, best)
        if not quiet:
            stdout.print(printable(f"picture: {picture}"))


def _check_question(question: str) -> None:
    if not question.strip():
        raise InputError("the question is empty")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the question is not text in UTF-8, at character {error.start}") from None
