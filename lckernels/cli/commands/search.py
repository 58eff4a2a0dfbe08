"""The command search."""

from pathlib import Path
from typing import Annotated

import typer

from lckernels.cli.console import (
    print_json,
    printable,
    remarks,
    require_extras,
    show_progress,
    stdout,
)
from lckernels.cli.encoder import EXTRAS, load_encoder
from lckernels.cli.figures.common import check_figure_path
from lckernels.cli.options import (
    DEFAULT_MODEL,
    Boundaries,
    BoundariesOption,
    ChunkLenOption,
    Dtype,
    DtypeOption,
    FilesArgument,
    JsonOption,
    LanguageOption,
    Merge,
    MergeOption,
    ModelOption,
    OverlapOption,
    OverwriteOption,
    QuantizeOption,
    QuietOption,
    ThreadsOption,
    Weights,
    WeightsOption,
)
from lckernels.cli.sources import (
    Sources,
    check_language,
    check_states_paths,
    read_sources_and_question,
    states_beside,
    states_in,
)
from lckernels.errors import InputError


def search(
    files: FilesArgument,
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
    quantize: QuantizeOption = False,
    language: LanguageOption = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Save the states as FILE.safetensors; read them from there if they fit."),
    ] = False,
    states: Annotated[
        Path | None,
        typer.Option(
            help="As --keep, but in this file; for several files, or a folder, within this folder.",
            show_default=False,
            metavar="PATH",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Where the picture of one FILE goes: .png, .svg, .pdf, .jpg.",
            show_default="FILE's name with .search.png, in this folder",
            metavar="PATH",
        ),
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")] = False,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Print the passages of all FILEs that fit the QUESTION best, and draw the similarity along the text.

    Each file is read once, chunk by chunk, into one hidden state per token.

    A passage's vector is the mean of its tokens; its score is the cosine similarity to the question.
    """
    """Print the passages of all FILEs that fit the QUESTION best, and draw the similarity along the text.

    Each file is read once, chunk by chunk, into one hidden state per token.

    A passage's vector is the mean of its tokens; its score is the cosine similarity to the question.
    """
    require_extras(EXTRAS if no_plot else {**EXTRAS, "matplotlib": "cli"})
    import torch

    from lckernels.cli.figures.search import plot_search
    from lckernels.cli.reports.search import Found, as_json, print_figures, print_passages, rank
    from lckernels.passages import passage_vectors, split_passages
    from lckernels.search.encoding import load_or_encode

    check_language(language)
    sources = read_sources_and_question(files, question)
    paths = _states_paths(sources, keep, states)
    check_states_paths(sources, paths, overwrite)
    picture = _picture_path(sources, plot, no_plot)
    notify = remarks(quiet)
    encoder = load_encoder(
        model, threads, chunk_len, overlap, weights, boundaries, merge, dtype, quantize, notify
    )
    vector, found = encoder.embed(question), []
    hashes = encoder.hashes() if any(paths) else None
    for text, path in zip(sources.texts, paths, strict=True):
        encoded, reused = load_or_encode(
            text,
            encoder,
            path,
            language,
            overwrite=overwrite,
            progress=show_progress(quiet),
            notify=notify,
            hashes=hashes,
        )
        offsets = encoded.offsets - text.content_start
        passages = split_passages(text.content, offsets, language or text.language(), passage_tokens)
        scores = passage_vectors(encoded.states, passages) @ vector
        found.append(Found(text, passages, scores, encoded.metadata, path, reused))
    ranked = rank(found, top)
    if json:
        drawn = None if picture is None else str(picture)
        print_json({"question": question, "model": model, **as_json(found, ranked), "picture": drawn})
    else:
        print_passages(ranked, with_names=not sources.single)
    if not (quiet or json):
        print_figures(found, ranked)
    if picture is not None:
        best = torch.tensor([passage for _, passage in ranked])
        plot_search(picture, sources.texts[0], question, found[0].passages.chars, found[0].scores, best)
        if not (quiet or json):
            stdout.print(printable(f"picture: {picture}"))


def _states_paths(sources: Sources, keep: bool, states: Path | None) -> list[Path | None]:
    """Where the states of each text are, or will be, saved; None for nowhere."""
    if states is not None:
        return list(states_in(sources, states))
    return list(states_beside(sources)) if keep else [None] * len(sources.texts)


def _picture_path(sources: Sources, plot: Path | None, no_plot: bool) -> Path | None:
    """Where the picture of one text goes; None for several texts or without a picture."""
    if no_plot and plot is not None:
        raise InputError("got --plot and --no-plot; expected one of the two")
    if no_plot or (plot is None and not sources.single):
        return None
    if not sources.single:
        raise InputError("--plot draws one FILE; it has no picture for several files or a folder")
    path = plot or Path(f"{sources.texts[0].path.stem}.search.png")
    check_figure_path(path)
    return path
