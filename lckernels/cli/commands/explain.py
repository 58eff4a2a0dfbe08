"""The command explain."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lckernels.cli.console import print_json, printable, require_extras, stdout
from lckernels.cli.figures.common import check_figure_path
from lckernels.cli.models import GGUF_EXTRAS, check_gguf, model_from_config, stored_config
from lckernels.cli.options import GgufFileOption, JsonOption, with_option_name
from lckernels.cli.reports.explain import Explanation, as_json, lines
from lckernels.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from lckernels.hf.costs import Costs


def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder with a config.json, a config file, or a name on the Hugging Face hub.",
            show_default=False,
        ),
    ],
    gguf_file: GgufFileOption = None,
    seqlen: Annotated[int, typer.Option(min=1, help="Tokens of the text.")] = 8192,
    window: Annotated[
        int | None,
        typer.Option(
            help="Turn full attention into windowed attention of so many keys: an approximation.",
            show_default="the model's own attention",
        ),
    ] = None,
    sink_tokens: Annotated[
        int | None,
        typer.Option(help="First tokens that every token sees beside that window.", show_default="0"),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the visible keys of each kind of layer: .png, .svg, .pdf, .jpg.",
            show_default=False,
            metavar="PATH",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print what lckernels.patch would change in each attention layer of MODEL, and what that saves.

    Only the config is read: no weights are loaded and nothing is computed.
    """
    require_extras({"transformers": "hf"} | (GGUF_EXTRAS if gguf_file else {}))
    if plot is not None:
        require_extras({"matplotlib": "cli"})
        check_figure_path(plot)
    check_gguf(model, gguf_file)
    _check_window(window, sink_tokens)
    network = model_from_config(model, gguf_file)
    stored = {} if gguf_file else stored_config(model)
    costs = _costs(network, stored, seqlen, window, sink_tokens)
    found = Explanation(costs, *_positions(network), window, sink_tokens)
    if json:
        print_json({**as_json(found), "picture": None if plot is None else str(plot)})
    else:
        for line in lines(found):
            stdout.print(printable(line))
    if plot is not None:
        from lckernels.cli.figures.explain import plot_layers

        plot_layers(plot, costs, sink_tokens or 0)
        if not json:
            stdout.print(printable(f"picture: {plot}"))


def _check_window(window: int | None, sink_tokens: int | None) -> None:
    from lckernels.hf.patch.arguments import check_window

    try:
        check_window(window, sink_tokens)
    except ValueError as error:
        raise InputError(with_option_name(str(error), ("window", "sink_tokens"))) from None


def _costs(
    model: "nn.Module", stored: dict[str, Any], seqlen: int, window: int | None, sink_tokens: int | None
) -> "Costs":
    """The costs of the model's attention; `stored` is its config.json, empty without one.

    Raises InputError for a model that a patch would not change.
    """
    from lckernels.hf.costs import costs
    from lckernels.hf.patch.dry_run import padded_dry_run
    from lckernels.hf.patch.plan import plan_patch
    from lckernels.hf.patch.stored_config import stored_notes
    from lckernels.hf.settings import LayerSettings

    run, requested = padded_dry_run(model), LayerSettings(window, sink_tokens or 0)
    try:
        report, _ = plan_patch(model, run, requested, device_type="cpu")
    except TypeError as error:
        raise InputError(str(error)) from None
    if not report.taken:
        raise InputError(
            f"the attention of {report.model} is known at its first call only ({report.unknown}); "
            "lckernels.patch reports it then"
        )
    if stored:
        notes = stored_notes(stored, model.config, report.notes)
        report = replace(report, notes=(*report.notes, *notes))
    return costs(run, report, requested, seqlen)


def _positions(model: "nn.Module") -> tuple[int | None, bool]:
    """The number of positions of the model, None without a limit; and whether it is an encoder."""
    from lckernels.long.encoder_check import check_encoder
    from lckernels.long.positions import usable_positions

    limit = usable_positions(model)
    try:
        check_encoder(model)
    except TypeError:
        return limit and limit[0], False
    return limit and limit[0], True
