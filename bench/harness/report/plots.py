"""Plots of stored rows: a line per provider over the cases of a suite."""

from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench.harness.report import attention_goals, attention_plots, tables
from bench.harness.report.stored import Stored, case_of, groups
from bench.harness.rows import OWN

Section = tuple[str, ...]  # machine, suite, op, direction


def file_names(rows: list[Stored]) -> dict[Section, list[str]]:
    """The plots of each section; the attention suite has three per machine, under `(machine, suite)`."""
    names: dict[Section, list[str]] = {}
    numbers: dict[str, int] = defaultdict(int)

    def numbered(stem: str) -> str:
        numbers[stem] += 1
        return f"{stem}.png" if numbers[stem] == 1 else f"{stem}_{numbers[stem]}.png"

    for section in groups(rows, 4):
        _, suite, op, direction = section
        if suite != attention_goals.SUITE:
            names[section] = [numbered(f"{suite}_{op}_{direction}")]
        elif section[:2] not in names:
            names[section[:2]] = [numbered(f"attention_{plot}") for plot in attention_plots.PLOTS]
    return names


def draw(rows: list[Stored], folder: Path) -> list[Path]:
    """Draws the plots of every section and returns their paths."""
    by_case, by_suite = groups(rows, 4), groups(rows, 2)
    paths = []
    for section, names in file_names(rows).items():
        if section in by_suite:
            figures = attention_plots.figures(by_suite[section])
        else:
            figures = [_rates(section, by_case[section])]
        for name, figure in zip(names, figures, strict=True):
            paths.append(folder / name)
            figure.savefig(paths[-1], dpi=110)
            plt.close(figure)
    return paths


def _rates(section: Section, rows: list[Stored]) -> plt.Figure:
    """Rates over the cases, a line per provider and kind of output."""
    grouped = tables.cases(rows)
    cases = [case_of(of_case[0]) for of_case in grouped]
    ticks = _ticks([of_case[0] for of_case in grouped])
    figure, axes = plt.subplots(figsize=(max(6, 0.7 * len(cases)), 4.5), layout="constrained")
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        name = f"{row['provider']} {row['output']}".strip()
        lines[name][cases.index(case_of(row))] = row["rate"]
    for name, points in lines.items():
        own = name.startswith(OWN)
        places = sorted(points)
        style = {"linewidth": 2 if own else 1, "label": name}
        axes.plot(places, [points[i] for i in places], "o-" if own else "x--", **style)
    axes.set_xticks(range(len(cases)), ticks, rotation=45, ha="right", fontsize=7)
    axes.set_ylabel(rows[0]["unit"])
    axes.set_ylim(bottom=0)
    axes.set_title(" ".join(section[2:]), fontsize=10)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _ticks(cases: list[Stored]) -> list[str]:
    """The dtype and the sizes in which the cases differ."""
    varying = [name for name in cases[0]["shape"] if len({str(row["shape"].get(name)) for row in cases}) > 1]
    return [
        " ".join([row["dtype"], *(f"{name} {row['shape'].get(name, '')}" for name in varying)])
        for row in cases
    ]
