"""The figure of `lckernels explain`: the keys that each kind of layer sees."""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from lckernels.cli.console import printable
from lckernels.cli.figures.common import fonts, save_figure
from lckernels.extras import import_extra
from lckernels.hf.costs import Costs
from lckernels.hf.masks.kinds import Kind
from lckernels.visible import visible_range

CELLS = 128
_FAINTEST = 0.25  # so that a cell with one visible key does not look empty


def plot_layers(path: Path, costs: Costs, sink_tokens: int) -> None:
    """Draws a square for each kind of layer, queries down, keys to the right.

    Args:
        path: where the figure is written.
        costs: of the model's attention.
        sink_tokens: of the patch.

    Raises:
        InputError: the file cannot be written.
    """
    figures = import_extra("matplotlib.figure", "cli")
    kinds: dict[tuple[Kind, bool], int] = {}
    for layer in costs.layers:
        key = (layer.kind, layer.kind != layer.before)
        kinds[key] = kinds.get(key, 0) + 1
    with import_extra("matplotlib", "cli").rc_context(fonts()):
        figure = figures.Figure(figsize=(1 + 3.6 * len(kinds), 4.6), dpi=150, layout="constrained")
        squares = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axes, ((kind, narrowed), count) in zip(squares, kinds.items(), strict=True):
            shown = visible_share(kind, costs.seqlen, sink_tokens if narrowed else 0)
            extent = (0, costs.seqlen, costs.seqlen, 0)
            axes.imshow(shown, cmap="Blues", vmin=0, vmax=1.15, extent=extent, interpolation="nearest")
            window = (
                "" if kind.is_full or kind.cross or kind.chunk else f" {kind.window[0]}, {kind.window[1]}"
            )
            axes.set_title(f"{kind}{window}\n{count} layer{'s' if count > 1 else ''}", fontsize=10)
            axes.set_xlabel("key")
            axes.set_ylabel("query")
            axes.tick_params(labelsize=8)
            axes.locator_params(nbins=4)
        title = printable(f"{costs.report.model}, {costs.seqlen:,} tokens: visible keys")
        figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
        save_figure(figure, path)


def visible_share(kind: Kind, seqlen: int, sink_tokens: int = 0, cells: int = CELLS) -> Tensor:
    """(n, n) float64, n <= cells: the share of a cell's keys that its middle query sees, 0 or >= 0.25."""
    cells = min(cells, seqlen)
    bounds = [i * seqlen // cells for i in range(cells + 1)]
    share = torch.zeros(cells, cells, dtype=torch.float64)
    middles = torch.tensor([(begin + end - 1) // 2 for begin, end in pairwise(bounds)])
    window, chunk = ((-1, -1), 0) if kind.cross else (kind.window, kind.chunk)
    _, firsts, lasts = visible_range(middles, seqlen, window, chunk)
    for row, (first, stop) in enumerate(zip(firsts.tolist(), (lasts + 1).tolist(), strict=True)):
        for column in range(cells):
            begin, end = bounds[column], bounds[column + 1]
            seen = max(min(stop, end) - max(first, begin), 0)
            seen += max(min(first, sink_tokens, end) - begin, 0)
            if seen:
                share[row, column] = max(min(seen / (end - begin), 1.0), _FAINTEST)
    return share
