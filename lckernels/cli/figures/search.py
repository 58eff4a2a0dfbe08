"""The figure of a search: similarity along the text, the best passages marked."""

from pathlib import Path

import torch.nn.functional as F
from rich.cells import cell_len, set_cell_size
from torch import Tensor

from lckernels.cli.console import printable
from lckernels.cli.figures.common import fonts, save_figure
from lckernels.extras import import_extra
from lckernels.text_files import Text

_LABEL_GAP = 1.5  # percent of the text
_LIGHT, _DARK, _MARK = "#b9c7d9", "#1f4e79", "#c8102e"


def plot_search(path: Path, text: Text, question: str, chars: Tensor, scores: Tensor, best: Tensor) -> None:
    """Draws the similarity along the text, and lists the best passages.

    Args:
        path: where the figure is written.
        text: that was searched.
        question: the title.
        chars: (num_passages, 2) int64, the characters of each passage.
        scores: (num_passages,) float.
        best: (top,) int64, the best passages, the best first.

    Raises:
        InputError: the file cannot be written.
    """
    figures = import_extra("matplotlib.figure", "cli")
    with import_extra("matplotlib", "cli").rc_context(fonts()):
        lines = len(best)
        figure = figures.Figure(figsize=(11, 5 + 0.24 * lines), dpi=150, layout="constrained")
        axes, legend = figure.subplots(2, 1, height_ratios=[4.6, 0.24 * lines + 0.1])
        _draw_scores(axes, text, chars, scores, best)
        title = printable(f"“{question}” in {text.path.name}")
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", parse_math=False)
        legend.set_axis_off()
        for rank, passage in enumerate(best.tolist()):
            start, end = chars[passage].tolist()
            score, percent = f"{scores[passage]:.3f}", f"{text.percent(start):5.1f} %"
            where = f"{rank + 1:>2}   {score}   {percent}   line {text.line(start):,}"
            y = 1 - (rank + 0.5) / lines
            legend.text(0.0, y, where, va="center", family="monospace", fontsize=9, color=_MARK)
            legend.text(0.27, y, _excerpt(text.content[start:end]), va="center", fontsize=9, parse_math=False)
        save_figure(figure, path)


def _draw_scores(axes: object, text: Text, chars: Tensor, scores: Tensor, best: Tensor) -> None:
    position = 100 * chars.double().mean(1) / len(text.content)
    width = max(1, len(scores) // 100)
    axes.plot(position, scores, color=_LIGHT, linewidth=0.6, label=f"each of {len(scores):,} passages")
    if width > 1:
        label = f"mean of {width} neighbours"
        axes.plot(position, _running_mean(scores, width), color=_DARK, linewidth=1.4, label=label)
    axes.scatter(position[best], scores[best], s=26, color=_MARK, zorder=3, label=f"the {len(best)} best")
    for at, score, ranks in _labels(position[best].tolist(), scores[best].tolist()):
        style = {"fontsize": 9, "fontweight": "bold", "color": _MARK, "ha": "center", "va": "bottom"}
        axes.annotate(ranks, (at, score), xytext=(0, 5), textcoords="offset points", **style)
    axes.set_xlim(0, 100)
    low, high = float(scores.min()), float(scores.max())
    axes.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.18 * (high - low) + 1e-3)
    axes.set_xlabel("position in the text (% of its characters)")
    axes.set_ylabel("cosine similarity to the question")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", fontsize=8, framealpha=0.9, ncols=3)


def _labels(positions: list[float], scores: list[float]) -> list[tuple[float, float, str]]:
    """(position, score, ranks) of each label: best passages at close positions share one."""
    groups: list[list[int]] = []
    for index in sorted(range(len(positions)), key=positions.__getitem__):
        if groups and positions[index] - positions[groups[-1][-1]] < _LABEL_GAP:
            groups[-1].append(index)
        else:
            groups.append([index])
    ranks = (", ".join(str(index + 1) for index in sorted(group)) for group in groups)
    tops = (max(group, key=scores.__getitem__) for group in groups)
    return [(positions[top], scores[top], text) for top, text in zip(tops, ranks, strict=True)]


def _running_mean(scores: Tensor, width: int) -> Tensor:
    """(num_passages,): the mean of `width` or `width + 1` neighbours around each, fewer at the ends."""
    pooled = F.avg_pool1d(
        scores[None, None].float(),
        2 * (width // 2) + 1,
        stride=1,
        padding=width // 2,
        count_include_pad=False,
    )
    return pooled[0, 0]


def _excerpt(passage: str, cells: int = 100) -> str:
    """The beginning as one line, at most `cells` wide; a Chinese character is two cells wide."""
    line = " ".join(printable(passage).split())
    return line if cell_len(line) <= cells else set_cell_size(line, cells - 1).rstrip() + "…"
