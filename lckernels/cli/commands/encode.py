"""The command encode."""

from pathlib import Path
from typing import Annotated

import typer

from lckernels.cli.console import printable, remarks, require_extras, show_progress, stdout
from lckernels.cli.encoder import EXTRAS, load_encoder
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
from lckernels.cli.reports.states import print_figures
from lckernels.long.text_encoder import DEFAULT_MODEL
from lckernels.search.encoding import encode_text
from lckernels.search.saved_states import check_target, save_states
from lckernels.search.text import read_text


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
    require_extras(EXTRAS)
    text = read_text(file)
    check_target(output)
    encoder = load_encoder(model, threads, chunk_len, overlap, weights, boundaries, merge, dtype)
    states = encode_text(text, encoder, language or text.language(), show_progress(quiet), remarks(quiet))
    save_states(output, states)
    if not quiet:
        print_figures(states, reused=False)
        stdout.print(printable(f"states: {output}, {output.stat().st_size / 2**20:,.1f} MiB"))
