"""Arguments and options that several commands have."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # of search and encode


def with_option_name(message: str, names: Iterable[str]) -> str:
    """The message `argument: got X; expected Y` with the name of the option, for an argument in `names`."""
    name, colon, why = message.partition(": ")
    if not colon or name not in names:
        return message
    return f"--{name.replace('_', '-')}: {why.replace('window is None', '--window is not given')}"


class Weights(StrEnum):
    """The merge weights, as in `overlap_merge`."""

    triangular = "triangular"
    uniform = "uniform"
    hann = "hann"
    crop = "crop"


class Boundaries(StrEnum):
    """The rule that cuts chunks, as in `LongEncoder`."""

    sled = "sled"
    max_context = "max_context"
    sentence = "sentence"


class Merge(StrEnum):
    """Where chunks are merged, as in `LongEncoder`."""

    final = "final"
    layer = "layer"


class Bos(StrEnum):
    """The contexts that begin with the special tokens at the start of a text, as in `score`."""

    every = "every"
    first = "first"


class Dtype(StrEnum):
    """The dtype of the model and of the states."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A text file in UTF-8.", show_default=False)
]
FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        help="Text files in UTF-8; of a folder, its files that end in .txt or .md, subfolders included.",
        show_default=False,
    ),
]
ModelOption = Annotated[str, typer.Option(help="An encoder: a folder, or a name on the Hugging Face hub.")]
TaskModelOption = Annotated[
    str,
    typer.Option(
        help="A model with a head for the task: a folder, or a name on the Hugging Face hub.",
        show_default=False,
    ),
]
ChunkLenOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens of a chunk, special tokens included.", show_default="all positions of the model"
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens that neighbouring chunks share.", show_default="a quarter of a chunk's content"
    ),
]
WeightsOption = Annotated[Weights, typer.Option(help="How much each chunk counts where chunks overlap.")]
BoundariesOption = Annotated[
    Boundaries,
    typer.Option(help="Where chunks are cut: at equal steps (sled, max_context) or between sentences."),
]
MergeOption = Annotated[
    Merge,
    typer.Option(
        help="Read every chunk and merge the results (final), or read the text once and merge after each "
        "layer's attention (layer): an approximation of it, with more memory and less arithmetic."
    ),
]
DtypeOption = Annotated[Dtype, typer.Option(help="Arithmetic of the model and dtype of the states.")]
QuantizeOption = Annotated[
    bool,
    typer.Option(
        "--quantize",
        help="Linear layers in int8, for processors without bfloat16; --dtype bfloat16 is faster and closer.",
    ),
]
LanguageOption = Annotated[
    str | None,
    typer.Option(
        help="ISO 639 code for finding sentences, such as en; one that sentencex lacks is read as en.",
        show_default="zh if Chinese, else en",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of the computation.", show_default="torch's own number")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks, no numbers of the encoding.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace saved states of another text.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Most texts that the model reads at a time.")]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="Read only so many tokens of each text, from its start.", show_default="all"),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option(
        help="Write a page for a browser, one file that requires no network: texts, highlights, scores.",
        show_default=False,
        metavar="PAGE",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
GgufFileOption = Annotated[
    str | None,
    typer.Option(help="The GGUF file in the folder or repository MODEL.", metavar="NAME", show_default=False),
]
