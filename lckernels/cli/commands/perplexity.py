"""The command perplexity."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lckernels.cli.console import (
    print_json,
    printable,
    remarks,
    require_extras,
    set_threads,
    show_progress,
    silence_libraries,
    stdout,
)
from lckernels.cli.figures.common import check_figure_path
from lckernels.cli.models import GGUF_EXTRAS, check_gguf
from lckernels.cli.options import (
    Bos,
    Dtype,
    FileArgument,
    GgufFileOption,
    JsonOption,
    ThreadsOption,
    with_option_name,
)
from lckernels.errors import InputError
from lckernels.flops import format_count
from lckernels.text_files import read_text

_OPTIONS = ("context", "stride", "window", "sink_tokens")


def perplexity(
    file: FileArgument,
    model: Annotated[
        str,
        typer.Option(help="A decoder: a folder, or a name on the Hugging Face hub.", show_default=False),
    ],
    gguf_file: GgufFileOption = None,
    window: Annotated[
        int | None,
        typer.Option(
            help="Each token sees so many tokens, itself among them, where it otherwise sees all before it: "
            "an approximation.",
            show_default="the model's own attention",
        ),
    ] = None,
    sink_tokens: Annotated[
        int | None,
        typer.Option(help="First tokens that every token sees beside its window.", show_default="0"),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Tokens read at a time.", show_default="all positions of the model, at most 8192"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            help="Tokens from one context to the next; only those not scored before are scored.",
            show_default="half the context",
        ),
    ] = None,
    bos: Annotated[
        Bos | None,
        typer.Option(
            help="Contexts that begin with the special tokens at the start of the text.",
            show_default="every, where the tokenizer adds such tokens",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Read only so many tokens of the text.", show_default="all")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Arithmetic of the model.")] = Dtype.float32,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Also run the model as it is, and print both and the largest difference of a logit.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw perplexity along the text: .png, .svg, .pdf, .jpg.", show_default=False, metavar="PATH"
        ),
    ] = None,
    json: JsonOption = False,
    threads: ThreadsOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks.")] = False,
) -> None:
    """Print the perplexity of a decoder on FILE, read in overlapping contexts on lckernels' attention.

    Each token is scored once, by the tokens before it in its context; the first one of the text is not.
    """
    require_extras(
        {"transformers": "hf"} | (GGUF_EXTRAS if gguf_file else {}) | ({"matplotlib": "cli"} if plot else {})
    )
    from lckernels.cli.reports import perplexity as report
    from lckernels.long.loading import load
    from lckernels.long.text_encoder import DTYPES
    from lckernels.perplexity.arguments import check_sizes, fit
    from lckernels.perplexity.scoring import compare as compare_ways
    from lckernels.perplexity.scoring import score
    from lckernels.perplexity.tokens import tokenize

    sizes = {"context": context, "stride": stride, "window": window, "sink_tokens": sink_tokens}
    with _errors_as_options():
        check_sizes(**sizes)
    if max_tokens is not None and max_tokens < 2:
        raise InputError(f"--max-tokens: got {max_tokens}; expected at least 2")
    check_gguf(model, gguf_file)
    text = read_text(file)
    if plot is not None:
        check_figure_path(plot)
    set_threads(threads)
    silence_libraries()
    tokenizer, decoder, _ = load(model, DTYPES[dtype.value], "AutoModelForCausalLM", gguf_file)
    tokens = tokenize(tokenizer, text.content, max_tokens)
    repeats = _repeats(bos, tokens.given, model)
    repeated = tokens.given if repeats == Bos.every else 0
    with _errors_as_options():
        sizes["context"], sizes["stride"] = fit(decoder, context, stride, repeated)
        notify = remarks(quiet)
        if stride is not None and sizes["stride"] < stride:
            begins = f"each context begins with {format_count(repeated, 'special token')}"
            notify("--stride {:,} becomes {stride:,}: {}".format(stride, begins, **sizes))
        notify(
            "reading {:,} tokens, {context:,} at a time, {stride:,} apart".format(
                len(tokens.input_ids), **sizes
            )
        )
        options = {**sizes, "given": tokens.given, "bos": repeats and repeats.value}
        options["progress"] = show_progress(quiet)
        comparison = compare_ways(decoder, tokens.input_ids, **options) if compare else None
        patched = comparison.patched if comparison else score(decoder, tokens.input_ids, **options)
    special = tokenizer.convert_ids_to_tokens(tokens.input_ids[: tokens.given].tolist())
    result = report.Result(
        text=text,
        model=model,
        tokens=tokens,
        special=special,
        bos=repeats and repeats.value,
        dtype=dtype.value,
        patched=patched,
        comparison=comparison,
        **sizes,
    )
    if json:
        print_json(report.as_json(result))
    else:
        for line in report.lines(result):
            stdout.print(line)
    if plot is not None:
        from lckernels.cli.figures.perplexity import plot_perplexity

        plot_perplexity(plot, result)
        if not json:
            stdout.print(printable(f"picture: {plot}"))


def _repeats(bos: Bos | None, given: int, model: str) -> Bos | None:
    """--bos with its default; None for a tokenizer that adds no special tokens (`given`) at the start."""
    if given:
        return bos or Bos.every
    if bos == Bos.every:
        raise InputError(f"--bos: got every; the tokenizer of {model} adds no special token at the start")
    return None


@contextmanager
def _errors_as_options() -> Iterator[None]:
    """Errors of arguments raise InputError, with the command's option for the argument's name."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not str(error).startswith(
            tuple(f"{name}: " for name in (*_OPTIONS, "model", "input_ids", "given"))
        ):
            raise
        raise InputError(with_option_name(str(error), _OPTIONS)) from None
