"""Plots of the attention rows: rates under the roofline, times along N, ratios to the best peer."""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

PLOTS = ("rate", "time", "ratio")
_DIRECTIONS = ("forward", "backward", "decode")
_DTYPES = ("float32", "bfloat16")
_WINDOW, _CAUSAL, _HEAD_DIM = "511,0", "-1,0", 64
_ANCHOR = 8192


def figures(rows: list[Stored]) -> list[plt.Figure]:
    """The plots PLOTS of one machine's rows."""
    return [_rates(rows), _times(rows), _ratios(rows)]


def _line(rows: Iterable[Stored], direction: str, dtype: str) -> list[Stored]:
    """Rows along N: W=512 (decode: the whole cache), D=64, one head count."""
    window = _CAUSAL if direction == "decode" else _WINDOW
    found = [
        row
        for row in rows
        if (row["direction"], row["dtype"]) == (direction, dtype)
        and (row["shape"]["window"], row["shape"]["head_dim"]) == (window, _HEAD_DIM)
    ]
    return sorted(found, key=lambda row: row["shape"]["seqlen"])


def _panels(columns: int, rows: int, width: float = 6, height: float = 3.6) -> tuple[plt.Figure, list[Axes]]:
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False
    )
    return figure, list(axes.flat)


def _rates(rows: list[Stored]) -> plt.Figure:
    """A panel per direction and dtype: every provider's rate against N, and the peak rates of our rows."""
    figure, panels = _panels(len(_DTYPES), len(_DIRECTIONS), width=5)
    pairs = [(direction, dtype) for direction in _DIRECTIONS for dtype in _DTYPES]
    colors = _colors(row["provider"] for row in rows)
    for axes, (direction, dtype) in zip(panels, pairs, strict=True):
        line = _line(rows, direction, dtype)
        what = f"whole cache, D={_HEAD_DIM}" if direction == "decode" else f"W=512, D={_HEAD_DIM}"
        axes.set_title(f"{direction}, {dtype}, {what}", fontsize=10)
        by_provider: dict[str, list[Stored]] = defaultdict(list)
        for row in line:
            by_provider[row["provider"]].append(row)
        for provider, points in by_provider.items():
            own = provider == OWN
            lengths, rates = zip(*((row["shape"]["seqlen"], row["rate"]) for row in points), strict=True)
            style = {"linewidth": 2 if own else 1, "color": colors[provider]}
            axes.plot(lengths, rates, "o-" if own else "x--", **style)
        _roofline(axes, by_provider.get(OWN, []))
        _powers_of_two(axes, [row["shape"]["seqlen"] for row in line])
        if line:
            axes.set_ylabel(line[0]["unit"])
            axes.set_ylim(bottom=0)
    handles = [Line2D([], [], color=color, label=provider) for provider, color in colors.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _roofline(axes: Axes, own: list[Stored]) -> None:
    """The highest peak rate of our rows as a thick line, the others as dotted ones."""
    peak_rates: dict[str, list[float]] = defaultdict(list)
    for row in own:
        for name in row["alike"]:
            peak_rates[name].append(row["ceilings"][name])
    heights = {name: median(values) for name, values in peak_rates.items()}
    for name, height in heights.items():
        best = height == max(heights.values())
        axes.axhline(height, color="black", linewidth=2 if best else 1, linestyle="-" if best else ":")
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (0, -9)}
        axes.annotate(f"{name} {height:.0f}", (0.99, height), fontsize=7, ha="right", **place)


def _colors(names: Iterable[str]) -> dict[str, str]:
    """One color a name, the same in every panel; ours first."""
    found = sorted(set(names), key=lambda name: (name != OWN, name))
    return {name: f"C{i}" for i, name in enumerate(found)}


def _times(rows: list[Stored]) -> plt.Figure:
    """Our time against N for every window, and a line proportional to N through a long case of W=512."""
    directions = [d for d in _DIRECTIONS if d != "decode"]
    figure, panels = _panels(len(_DTYPES), len(directions), width=5)
    pairs = [(direction, dtype) for direction in directions for dtype in _DTYPES]
    for axes, (direction, dtype) in zip(panels, pairs, strict=True):
        lines: dict[str, dict[int, float]] = defaultdict(dict)
        for row in rows:
            shape = row["shape"]
            ours = (row["provider"], row["direction"], row["dtype"]) == (OWN, direction, dtype)
            if ours and (shape["head_dim"], shape["heads"], shape["batch"]) == (_HEAD_DIM, "8:8", 1):
                lines[shape["window"]][shape["seqlen"]] = row["timing"]["median"]
        for window, points in sorted(lines.items(), key=lambda line: _left(line[0])):
            lengths = sorted(points)
            label = _window_name(window)
            axes.plot(lengths, [points[n] for n in lengths], "o-", label=label, markersize=4)
            anchor = next((n for n in lengths if n >= _ANCHOR), None)
            if window == _WINDOW and anchor:
                straight = [points[anchor] * n / anchor for n in lengths]
                axes.plot(lengths, straight, color="black", linewidth=1, linestyle=":", zorder=3)
        axes.set_title(f"{direction}, {dtype}, H=8, D={_HEAD_DIM}; dotted: proportional to N", fontsize=10)
        _powers_of_two(axes, [n for points in lines.values() for n in points])
        if lines:
            axes.set_yscale("log")
            axes.set_ylabel("seconds")
            axes.legend(fontsize=7)
    return figure


def _ratios(rows: list[Stored]) -> plt.Figure:
    """How many times longer the best peer takes: of each kind of case the longest that a peer could do."""
    figure, panels = _panels(len(_DIRECTIONS), 1, height=8)
    other = {row["provider"] for row in rows if row.get("note")}  # they compute something else
    for axes, direction in zip(panels, _DIRECTIONS, strict=True):
        bars: dict[tuple[object, ...], tuple[Stored, str, float]] = {}
        for row in sorted(rows, key=lambda row: row["shape"]["seqlen"]):
            equal = {name: ratio for name, ratio in row["ratios"].items() if name not in other}
            if (row["provider"], row["direction"]) == (OWN, direction) and equal:
                best = min(equal, key=equal.__getitem__)
                bars[_kind(row)] = (row, best, equal[best])
        axes.set_title(f"{direction}: time of the best peer / ours", fontsize=10)
        ordered = [bars[kind] for kind in sorted(bars)]
        if ordered:
            colors = [f"C{_DTYPES.index(row['dtype'])}" for row, *_ in ordered]
            drawn = axes.barh([_bar_name(row) for row, *_ in ordered], [x for *_, x in ordered], color=colors)
            axes.bar_label(drawn, [f"{x:.1f} {name}" for _, name, x in ordered], fontsize=7, padding=2)
            axes.axvline(1, color="black", linewidth=1)
            axes.margins(x=0.3, y=0.01)
            axes.tick_params(axis="y", labelsize=7)
            axes.invert_yaxis()
    return figure


def _kind(row: Stored) -> tuple[object, ...]:
    """What cases that differ in length alone share; sorts by head_dim, heads, window and dtype."""
    shape = row["shape"]
    grouped = len(set(shape["heads"].split(":"))) > 1
    return shape["head_dim"], grouped, _left(shape["window"]), -_DTYPES.index(row["dtype"])


def _bar_name(row: Stored) -> str:
    shape = row["shape"]
    batch = f" B={shape['batch']}" if shape["batch"] > 1 else ""
    sizes = f"N={shape['seqlen']} {_window_name(shape['window'])} D={shape['head_dim']} H={shape['heads']}"
    return f"{sizes}{batch} {row['dtype']}"


def _left(window: str) -> float:
    """Keys to the left; infinite without that bound."""
    left = int(window.split(",")[0])
    return left if left >= 0 else float("inf")


def _window_name(window: str) -> str:
    return "full" if _left(window) == float("inf") else f"W={_left(window) + 1}"


def _powers_of_two(axes: Axes, lengths: list[int]) -> None:
    if lengths:
        ticks = sorted(set(lengths))
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in ticks], fontsize=7)
    axes.set_xlabel("N")
