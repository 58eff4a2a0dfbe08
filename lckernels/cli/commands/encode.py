"""The command encode."""

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
from lckernels.cli.reports.states import as_json, lines
from lckernels.cli.sources import check_language, check_states_paths, read_sources, states_in


def encode(
    files: FilesArgument,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The safetensors file to write; for several files, or a folder, the folder to write to.",
            show_default=False,
            metavar="PATH",
        ),
    ],
    model: ModelOption = DEFAULT_MODEL,
    chunk_len: ChunkLenOption = None,
    overlap: OverlapOption = None,
    weights: WeightsOption = Weights.triangular,
    boundaries: BoundariesOption = Boundaries.sled,
    merge: MergeOption = Merge.final,
    dtype: DtypeOption = Dtype.float32,
    quantize: QuantizeOption = False,
    language: LanguageOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Write the hidden states of each FILE: one row per token, its characters, and one vector for the text.

    A file appears whole or not at all. `search --states PATH` uses it.
    """
    require_extras(EXTRAS)
    from lckernels.search.encoding import encode_text
    from lckernels.search.saved_states import save_states

    check_language(language)
    sources = read_sources(files)
    paths = states_in(sources, output)
    check_states_paths(sources, paths, overwrite)
    notify = remarks(quiet)
    encoder = load_encoder(
        model, threads, chunk_len, overlap, weights, boundaries, merge, dtype, quantize, notify
    )
    hashes, entries = encoder.hashes(), []
    for text, path in zip(sources.texts, paths, strict=True):
        states = encode_text(text, encoder, language, show_progress(quiet), notify, hashes)
        save_states(path, states)
        entries.append(as_json(text, states.metadata, path, reused=False))
        if not (quiet or json):
            for line in lines(states.metadata, reused=False):
                stdout.print(line)
            stdout.print(printable(f"states: {path}, {path.stat().st_size / 2**20:,.1f} MiB"))
    if json:
        print_json({"model": model, "files": entries})
