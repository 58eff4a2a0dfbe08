"""A Markdown table and pictures, from rows alone."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from bench.harness.report import attention_plots, goals, model_goals
from bench.harness.report.goals import OWN, Stored
from bench.harness.rows import RESULTS

ATTENTION = "attention"  # the suite with goals and pictures of its own
_HEAD = """# Measured

Written by `make bench` from the rows (`*.jsonl`) beside this page; do not edit.

GB/s count each byte that must move once; GFLOP/s count the pairs that a window lets through (backward 2.5
times the forward). "Of ceiling": of the best plain copy of as many bytes, or of the best FMA instruction. "Of
like ceiling": of a copy with the op's own reads and writes, or of the best FMA without AMX. Peers were timed
in turns with ours: 3.00 means that the peer took three times as long. Output "fresh" is newly allocated,
"warm" memory that was touched before. Every result was first checked against the reference."""
_ATTENTION = """Forward and backward: GFLOP/s of the pairs that the window lets through, of the best FMA
instruction; AMX, where the machine has it, counts in "of ceiling" only. Decode: one query a sequence, GB/s of
visible keys and values, of the measured read bandwidth. Peak memory is what a call needs above its inputs and
results (a backward's holds its forward); peers have their masks built beforehand."""


def load(folder: Path) -> list[Stored]:
    """All rows of the folder's *.jsonl, of equal measurements the last one written."""
    rows = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    return list({(*_case(row), row["provider"], row["output"]): row for row in rows}.values())


def _machine(row: Stored) -> str:
    machine = row["machine"]
    gpu = f"{machine['gpu']}, " if "gpu" in machine else ""
    return f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {machine['isa']}"


def _case(row: Stored) -> tuple[str, ...]:
    shape = ", ".join(f"{name} {value}" for name, value in row["shape"].items())
    return _machine(row), row["suite"], row["op"], row["direction"], row["dtype"], shape


def _groups(rows: Iterable[Stored], length: int) -> dict[tuple[str, ...], list[Stored]]:
    """Rows by the first `length` parts of their case."""
    found: dict[tuple[str, ...], list[Stored]] = defaultdict(list)
    for row in rows:
        found[_case(row)[:length]].append(row)
    return found


def _versions(row: Stored) -> str:
    versions, changes = row["versions"], " + changes" if row["dirty"] else ""
    own = f"lckernels {versions['lckernels']} at {row['commit']}{changes}"
    return f"{own}, torch {versions['torch']}, Python {versions['python']}, {row['date'][:10]}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.9995 else f"{1e3 * seconds:.0f}"


def _table(rows: list[Stored]) -> list[str]:
    """One line per case and kind of output: our own row, and how much slower each peer was."""
    own = [row for row in rows if row["provider"] == OWN]
    peers = list(dict.fromkeys(peer for row in own for peer in row["ratios"]))
    names = list(dict.fromkeys(name for row in own for name in row["shape"]))
    unit = rows[0]["unit"]
    head = [*names, "dtype", "output", "backend", "ms (20-80 %)", unit, "of ceiling", "of like ceiling"]
    lines = [head + [f"{peer} / ours" for peer in peers], ["---"] * (len(head) + len(peers))]
    for row in own:
        timing = row["timing"]
        spread = f"{_milliseconds(timing['p20'])}-{_milliseconds(timing['p80'])}"
        lines.append(
            [str(row["shape"].get(name, "")) for name in names]
            + [row["dtype"], row["output"], row["backend"], f"{_milliseconds(timing['median'])} ({spread})"]
            + [f"{row['rate']:.3g}", _percent(row["percent"]), _percent(row["percent_alike"])]
            + [f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "" for peer in peers]
        )
    return [f"| {' | '.join(line)} |" for line in lines]


def _ceilings(rows: list[Stored]) -> str:
    """The span of each ceiling over the rows."""
    spans: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, rate in row["ceilings"].items():
            spans[name].append(rate)
    return (
        "; ".join(f"{name} {min(rates):.3g}-{max(rates):.3g}" for name, rates in spans.items())
        or "none measured"
    )


def _memory(rows: list[Stored]) -> list[str]:
    """Peak memory by provider, a line per case; nothing if no row has it."""
    if all(row.get("extra_bytes") is None for row in rows):
        return []
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["shape"]))
    head = [*names, "dtype", *providers]
    lines = [
        "",
        "Peak memory above inputs and results, MiB:",
        "",
        f"| {' | '.join(head)} |",
        "| --- " * len(head) + "|",
    ]
    for of_case in _groups(rows, 6).values():
        extra = {row["provider"]: row["extra_bytes"] for row in of_case if row.get("extra_bytes") is not None}
        sizes = [f"{extra[name] / 2**20:.3g}" if name in extra else "" for name in providers]
        shape = [str(of_case[0]["shape"].get(name, "")) for name in names]
        lines.append(f"| {' | '.join([*shape, of_case[0]['dtype'], *sizes])} |")
    return lines


def _left_out(rows: list[Stored]) -> list[str]:
    """Peers that took no part with their reasons, and how many cases each; notes on those that did."""
    counts = Counter(reason for row in rows for reason in row.get("left_out", {}).items())
    notes = dict.fromkeys((row["provider"], row["note"]) for row in rows if row.get("note"))
    found = [f"{peer}: {reason} ({number})" for (peer, reason), number in sorted(counts.items())]
    lines = [f"{provider} {note}." for provider, note in notes]
    return (
        ["", *([" ".join(lines), ""] if lines else []), f"Left out (cases): {'; '.join(found)}."]
        if found
        else []
    )


def markdown(rows: list[Stored]) -> str:
    """Our own rows, a table per machine, suite, op and pass; peers as ratios."""
    text = [_HEAD]
    attention = _groups((row for row in rows if row["suite"] == ATTENTION), 1)
    for (machine,), of_machine in attention.items():
        text += ["", "## Goals of windowed_attention", "", f"{machine}.", "", *goals.table(of_machine)]
        text += ["", _ATTENTION]
    models = _groups((row for row in rows if row["suite"] == model_goals.SUITE), 1)
    for (machine,), of_machine in models.items():
        text += ["", "## Goals of whole models", "", f"{machine}.", ""]
        text += goals.table(of_machine, model_goals.GOALS)
    for (machine, suite, op, direction), of_pass in _groups(rows, 4).items():
        versions = {_versions(row) for row in of_pass}
        text += ["", f"## {op}, {direction} ({suite})", "", f"{machine}; {'; '.join(sorted(versions))}.", ""]
        text += [*_table(of_pass), "", f"Ceilings, {of_pass[0]['unit']}: {_ceilings(of_pass)}."]
        text += [*_memory(of_pass), *_left_out(of_pass)]
    return "\n".join(text) + "\n"


def draw(rows: list[Stored], folder: Path) -> list[Path]:
    """A picture per machine, suite, op and pass: rates over the cases, by provider and kind of output.

    The attention suite has its own pictures.
    """
    paths = []
    attention = _groups((row for row in rows if row["suite"] == ATTENTION), 1)
    for number, of_machine in enumerate(attention.values(), 1):
        paths += attention_plots.draw(of_machine, folder, "" if number == 1 else f"_{number}")
    rows = [row for row in rows if row["suite"] != ATTENTION]
    numbers: dict[str, int] = defaultdict(int)
    for (_, suite, op, direction), of_pass in _groups(rows, 4).items():
        grouped = _groups(of_pass, 6)
        cases, ticks = list(grouped), _ticks([of_case[0] for of_case in grouped.values()])
        figure, axes = plt.subplots(figsize=(max(6, 0.7 * len(cases)), 4.5), layout="constrained")
        lines: dict[str, dict[int, float]] = defaultdict(dict)
        for row in of_pass:
            name = f"{row['provider']} {row['output']}".strip()
            lines[name][cases.index(_case(row))] = row["rate"]
        for name, points in lines.items():
            own = name.startswith(OWN)
            axes.plot(
                points.keys(), points.values(), "o-" if own else "x--", label=name, linewidth=2 if own else 1
            )
        axes.set_xticks(range(len(cases)), ticks, rotation=45, ha="right", fontsize=7)
        axes.set_ylabel(of_pass[0]["unit"])
        axes.set_ylim(bottom=0)
        axes.set_title(f"{op} {direction}", fontsize=10)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        stem = f"{suite}_{op}_{direction}"
        numbers[stem] += 1
        paths.append(folder / (f"{stem}.png" if numbers[stem] == 1 else f"{stem}_{numbers[stem]}.png"))
        figure.savefig(paths[-1], dpi=110)
        plt.close(figure)
    return paths


def _ticks(cases: list[Stored]) -> list[str]:
    """The dtype and the sizes in which the cases differ."""
    varying = [name for name in cases[0]["shape"] if len({str(row["shape"].get(name)) for row in cases}) > 1]
    return [
        " ".join([row["dtype"], *(f"{name} {row['shape'].get(name, '')}" for name in varying)])
        for row in cases
    ]


def write(folder: Path = RESULTS) -> list[Path]:
    """README.md and the pictures of the rows in `folder`. Raises ValueError if there are none."""
    rows = load(folder)
    if not rows:
        raise ValueError(f"{folder} holds no rows; pytest bench writes them")
    page = folder / "README.md"
    page.write_text(markdown(rows))
    return [page, *draw(rows, folder)]
