"""The figure of `lckernels perplexity`: perplexity along the text."""

from pathlib import Path

import torch

from lckernels.cli.console import printable
from lckernels.cli.figures.common import fonts, save_figure
from lckernels.cli.reports.perplexity import Result
from lckernels.extras import import_extra
from lckernels.perplexity.results import Scored

BUCKETS = 100
_COLORS = {"stock": ("#d9b8a3", "#b0413e"), "patched": ("#b9c7d9", "#1f4e79")}
_NAMES = {"stock": "stock", "patched": "lckernels"}


def plot_perplexity(path: Path, result: Result) -> None:
    """Draws the perplexity of each hundredth of the tokens and of all tokens so far.

    Args:
        path: where the figure is written.
        result: the scores.

    Raises:
        InputError: the file cannot be written.
    """
    figures = import_extra("matplotlib.figure", "cli")
    with import_extra("matplotlib", "cli").rc_context(fonts()):
        figure = figures.Figure(figsize=(11, 5), dpi=150, layout="constrained")
        axes = figure.subplots()
        for variant, scored in result.variants.items():
            light, dark = _COLORS[variant]
            dashes = "--" if variant == "patched" and result.comparison else "-"
            positions, within = scored.by_position(BUCKETS)
            axes.step(positions, within, color=light, linewidth=1.0, where="mid", linestyle=dashes)
            label = f"{_NAMES[variant]}: {scored.perplexity:,.2f}"
            axes.plot(*_so_far(scored), color=dark, linewidth=1.6, linestyle=dashes, label=label)
        axes.set_yscale("log")
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:,.6g}")
        axes.set_xlim(0, len(result.patched.nll))
        axes.set_xlabel("position in the text (tokens)")
        axes.set_ylabel("perplexity so far (light: within a hundredth)")
        axes.grid(axis="y", which="both", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="best", fontsize=9, framealpha=0.9)
        title = printable(f"{result.text.path.name}: {result.attention}, context {result.context:,}")
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", parse_math=False)
        save_figure(figure, path)


def _so_far(scored: Scored) -> tuple[torch.Tensor, torch.Tensor]:
    """At up to ten points a bucket: the position, and the perplexity of the tokens up to there."""
    total, counts = scored.nll.double().cumsum(0), scored.scored.double().cumsum(0)
    step = max(1, len(total) // (10 * BUCKETS))
    # The perplexity of a few tokens is noise, and would set the scale.
    at = torch.arange(min(len(total) - 1, len(total) // BUCKETS), len(total), step)
    at = at[counts[at] > 0]
    return at, (total[at] / counts[at]).exp()
