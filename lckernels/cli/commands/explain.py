"""The command explain."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lckernels.cli.console import printable, require_extras, stdout
from lckernels.cli.figures.common import check_figure_path
from lckernels.cli.reports.explain import lines
from lckernels.errors import InputError
from lckernels.extras import import_extra
from lckernels.long.loading import folder

if TYPE_CHECKING:
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
            help="Draw the visible keys of each kind of layer: .png, .svg, .pdf, .jpg.", show_default=False,
            metavar="PATH",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Print what lckernels.patch would do to each attention layer of MODEL, and what that saves.

    Only the config is read: no weights are loaded and nothing is computed.
    """
    require_extras({"transformers": "hf"} | ({"matplotlib": "cli"} if plot else {}))
    if plot is not None:
        check_figure_path(plot)
    found = _costs(model, seqlen, window, sink_tokens)
    for line in lines(found):
        stdout.print(printable(line))
    if plot is not None:
        from lckernels.cli.figures.explain import plot_layers

        plot_layers(plot, found, sink_tokens or 0)
        stdout.print(printable(f"picture: {plot}"))


def _costs(name: str, seqlen: int, window: int | None, sink_tokens: int | None) -> "Costs":
    """Raises InputError for a model that cannot be read, or that a patch would not change."""
    import torch

    from lckernels.backends.registry import BackendError
    from lckernels.hf.costs import costs
    from lckernels.hf.patch.arguments import check_window
    from lckernels.hf.patch.dry_run import padded_dry_run
    from lckernels.hf.patch.plan import plan_patch
    from lckernels.hf.settings import LayerSettings

    try:
        check_window(window, sink_tokens)
    except ValueError as error:
        raise InputError(f"--{str(error).replace('sink_tokens:', 'sink-tokens:', 1)}") from None
    transformers = import_extra("transformers", "hf")
    transformers.logging.set_verbosity_error()
    path = Path(name) if name.endswith(".json") and Path(name).is_file() else folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(str(path) if path else name)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config)
    except Exception as error:
        # A damaged folder makes the libraries raise whatever they run into.
        why = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise InputError(f"no model can be made of the config of {name}: {why}") from None
    run, wanted = padded_dry_run(model), LayerSettings(window, sink_tokens or 0)
    try:
        report, _ = plan_patch(model, run, wanted, device_type="cpu")
    except (TypeError, BackendError) as error:
        raise InputError(str(error)) from None
    if not report.taken:
        raise InputError(
            f"what {report.model} asks of its attention is known at its first call only ({report.unknown}); "
            "lckernels.patch says the rest"
        )
    return costs(run, report, wanted, seqlen)
