"""The commands search, encode and info; the app that has them, perplexity, explain and tune."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

from lckernels.backends import registry
from lckernels.cli import report
from lckernels.cli.commands.explain import explain
from lckernels.cli.commands.perplexity import perplexity
from lckernels.cli.commands.tune import tune
from lckernels.cli.console import need, set_threads, talk
from lckernels.cli.figures import search as picture
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
from lckernels.errors import InputError
from lckernels.long.text_encoder import DEFAULT_MODEL, TextEncoder
from lckernels.search.encoding import encode_text, obtain_states
from lckernels.search.passages import passage_vectors, split_passages
from lckernels.search.saved_states import check_target, save_states
from lckernels.search.text import printable, read_text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reads a text of any length: searches in it with an encoder that was built for short ones, or tells "
    "how well a decoder predicts it.",
)
_EXTRAS = dict.fromkeys(("safetensors", "sentencex", "transformers"), "hf")


def _reports_bad_input(command: Callable[..., None]) -> Callable[..., None]:
    """Bad input and a missing extra end the command with one sentence on stderr and exit code 2."""

    @wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        try:
            _check_environment()
            command(*args, **kwargs)
        except (InputError, ImportError) as error:
            print(f"lckernels: {' '.join(printable(str(error)).splitlines())}", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


@app.command()
@_reports_bad_input
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
    need(_EXTRAS if no_plot else {**_EXTRAS, "matplotlib": "cli"})
    _check_question(question)
    text = read_text(file)
    kept = states or (_beside(file) if keep else None)
    if kept is not None:
        check_target(kept)
    target = None if no_plot else plot or Path(f"{file.stem}.search.png")
    if target is not None:
        picture.check_target(target)
    encoder = _encoder(model, threads, chunk_len, overlap, weights, boundaries, merge, dtype)
    language = language or text.language()
    found, reused = obtain_states(text, encoder, language, kept, *talk(quiet))
    passages = split_passages(text.content, found.offsets, language, passage_tokens)
    scores = passage_vectors(found.states, passages) @ encoder.embed(question)
    best = scores.topk(min(top, len(passages))).indices
    report.print_passages(text, passages, scores, best)
    if not quiet:
        report.print_figures(found, reused)
        report.out.print(f"{len(passages):,} passages, {len(best)} printed")
    if target is not None:
        picture.plot_search(target, text, question, passages.chars, scores, best)
        if not quiet:
            report.out.print(printable(f"picture: {target}"))


@app.command()
@_reports_bad_input
def encode(
    file: FileArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The safetensors file to write.", show_default=False, metavar="PATH"
        ),
    ],
    model: ModelOption = DEFAULT_MODEL,
    chunk_len: ChunkLenOption = None,
    overlap: OverlapOption = None,
    weights: WeightsOption = Weights.triangular,
    boundaries: BoundariesOption = Boundaries.sled,
    merge: MergeOption = Merge.final,
    dtype: DtypeOption = Dtype.float32,
    language: LanguageOption = None,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the hidden states of FILE, one row per token, with the characters of each token.

    The file appears whole or not at all. `search --states PATH` uses it.
    """
    need(_EXTRAS)
    text = read_text(file)
    check_target(output)
    encoder = _encoder(model, threads, chunk_len, overlap, weights, boundaries, merge, dtype)
    states = encode_text(text, encoder, language or text.language(), *talk(quiet))
    save_states(output, states)
    if not quiet:
        report.print_figures(states, reused=False)
        report.out.print(printable(f"states: {output}, {output.stat().st_size / 2**20:,.1f} MiB"))


app.command()(_reports_bad_input(perplexity))
app.command()(_reports_bad_input(explain))
app.command()(_reports_bad_input(tune))


@app.command()
@_reports_bad_input
def info() -> None:
    """Show versions, what was built, the machine, and which backend serves which op and why."""
    report.print_info()


def _check_environment() -> None:
    """Raises InputError for a wrong setting in the environment variable LCKERNELS."""
    try:
        registry.settings()
    except ValueError as error:
        raise InputError(str(error)) from None


def _check_question(question: str) -> None:
    if not question.strip():
        raise InputError("the question is empty")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the question is not text in UTF-8, at character {error.start}") from None


def _beside(file: Path) -> Path:
    if not file.is_file():
        raise InputError(f"--keep needs a FILE to keep states beside; {file} is a pipe, name a --states PATH")
    return file.with_name(f"{file.name}.safetensors")


def _encoder(
    model: str,
    threads: int | None,
    chunk_len: int | None,
    overlap: int | None,
    weights: Weights,
    boundaries: Boundaries,
    merge: Merge,
    dtype: Dtype,
) -> TextEncoder:
    set_threads(threads)
    return TextEncoder(
        model,
        dtype=dtype.value,
        chunk_len=chunk_len,
        overlap=overlap,
        weights=weights.value,
        boundaries=boundaries.value,
        merge=merge.value,
    )
