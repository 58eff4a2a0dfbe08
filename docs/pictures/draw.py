"""Draws README's picture: a windowed mask beside a chunk plan with its merge weights.

`python docs/pictures/draw.py` writes docs/pictures/window_and_chunks.png; an argument is another path.
"""

import sys
from pathlib import Path

import matplotlib
import torch

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from lckernels import Layout, plan_chunks
from lckernels.reference import segment_weights, visible_keys

TARGET = Path(__file__).resolve().parent / "window_and_chunks.png"
SEQLEN, WINDOW_SIZE, SINK_TOKENS = 20, (5, 0), 2
TOTAL_LEN, CHUNK_LEN, OVERLAP = 40, 16, 8
INK, FRAME, CELL, SINK = "#24292f", "#8c959f", "#0969da", "#bc4c00"
CHUNK_COLORS = ("#0969da", "#1a7f37", "#bc4c00", "#8250df")


def draw_mask(axes: Axes) -> None:
    """The keys that each query sees, one square a pair; sink tokens left of the window in another colour."""
    p = torch.arange(SEQLEN)[None]
    window = visible_keys(p, SEQLEN, WINDOW_SIZE, Layout())[0]
    visible = visible_keys(p, SEQLEN, WINDOW_SIZE, Layout(sink_tokens=SINK_TOKENS))[0]
    for query, key in visible.nonzero().tolist():
        color = CELL if window[query, key] else SINK
        axes.add_patch(Rectangle((key + 0.06, query + 0.06), 0.88, 0.88, color=color, linewidth=0))
    axes.text(SEQLEN - 0.5, 4, "window", color=CELL, ha="right", weight="bold")
    axes.text(SINK_TOKENS + 0.5, SEQLEN - 1, "sink tokens", color=SINK, weight="bold")
    ticks = [0.5 + index for index in range(0, SEQLEN, 5)]
    axes.set(xlim=(0, SEQLEN), ylim=(SEQLEN, 0), aspect="equal", xlabel="key", ylabel="query")
    axes.set(xticks=ticks, yticks=ticks, xticklabels=range(0, SEQLEN, 5), yticklabels=range(0, SEQLEN, 5))
    axes.set_title(f"windowed_attention\nwindow_size={WINDOW_SIZE}, sink_tokens={SINK_TOKENS}", color=INK)


def draw_plan(plan_axes: Axes, weight_axes: Axes) -> None:
    """The chunks of a plan on the positions that they cover, and each chunk's share of a position."""
    plan = plan_chunks(TOTAL_LEN, CHUNK_LEN, OVERLAP)
    rows = [(row, segment_weights(row, "triangular", torch.float32)) for row in plan.segments.tolist()]
    total = torch.zeros(TOTAL_LEN)
    for (_, _, start, length, *_), weights in rows:
        total[start : start + length] += weights
    below = torch.zeros(TOTAL_LEN)
    for (chunk, _, start, length, *_), weights in rows:
        color, positions = CHUNK_COLORS[chunk % len(CHUNK_COLORS)], range(start, start + length)
        plan_axes.add_patch(
            Rectangle((start + 0.1, chunk + 0.12), length - 0.2, 0.76, color=color, linewidth=0)
        )
        plan_axes.text(
            start + length / 2, chunk + 0.5, f"chunk {chunk}", color="white", ha="center", va="center"
        )
        share = weights / total[start : start + length]
        bottom = below[start : start + length].clone()
        weight_axes.bar(positions, share, 0.88, bottom, align="edge", color=color, linewidth=0)
        below[start : start + length] += share
    plan_axes.set(xlim=(0, TOTAL_LEN), ylim=(plan.num_chunks, 0), yticks=[], xticklabels=[])
    plan_axes.set_title(
        f"overlap_merge\nchunk_len={CHUNK_LEN}, overlap={OVERLAP}, triangular weights", color=INK
    )
    weight_axes.set(xlim=(0, TOTAL_LEN), ylim=(0, 1), yticks=[0, 0.5, 1], xlabel="position of the sequence")
    weight_axes.set_ylabel("share of each chunk")


def draw(target: Path = TARGET) -> None:
    """Writes the picture on an opaque background, legible on light and dark pages."""
    style = {"font.size": 9, "axes.titlesize": 10, "axes.edgecolor": FRAME}
    style |= {name: INK for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")}
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(9, 3.7), facecolor="white", layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.7))
        draw_mask(figure.add_subplot(grid[:, 0]))
        draw_plan(figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 1]))
        figure.savefig(target, dpi=150)
        pyplot.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
