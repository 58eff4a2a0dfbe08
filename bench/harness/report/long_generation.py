"""A plot of a long generation: memory and time per token against the tokens generated.

`python -m bench.harness.report.long_generation STEPS PICTURE` reads the lines that
bench.suites.long_generation wrote, prints how far they are from constant, and draws them.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Line = dict[str, float | None]
_TURNS = "step_seconds_in_turns"  # of a line that the same program adds with --compare


@dataclass(frozen=True)
class Steps:
    """A generation, as its file has it.

    Attributes:
        about: the line of metadata.
        lines: one per 1,000 tokens: tokens, median_seconds, least_seconds, cpu_seconds, peak_bytes, cached.
        in_turns: tokens -> median seconds of a step from there, timed in turns; empty if not measured.
    """

    about: dict[str, object]
    lines: list[Line]
    in_turns: dict[int, float]

    @property
    def full(self) -> list[Line]:
        """The lines in which every step had the keys of a full window."""
        kept = int(self.about["window"]) + int(self.about["sink_tokens"])
        later = [line for line in self.lines if line["cached"] >= kept - 1]
        return later[1:]  # in the first of them the window was being filled


def read(path: Path) -> Steps:
    """Reads a file of lines; of repeated measurements in turns the last counts.

    Raises:
        ValueError: the file has no metadata, or no line of tokens.
    """
    about, *rest = [json.loads(line) for line in path.read_text().splitlines()] or [{}]
    lines = [line for line in rest if "tokens" in line]
    if "window" not in about or not lines:
        raise ValueError(f"{path} holds no steps; python -m bench.suites.long_generation writes them")
    turns = [line[_TURNS] for line in rest if _TURNS in line]
    return Steps(about, lines, {int(at): seconds for at, seconds in (turns[-1] if turns else {}).items()})


def farthest(values: dict[int, float]) -> tuple[float, int]:
    """The largest distance of a value from the median, as a part of it, and its tokens."""
    middle = median(values.values())
    return max((abs(value - middle) / middle, at) for at, value in values.items())


def flatness(steps: Steps) -> dict[str, tuple[float, int]]:
    """`farthest` of the memory and of the times per token after the window was full, by name."""
    found = {}
    for name in ("peak_bytes", "median_seconds", "least_seconds", "cpu_seconds"):
        values = {line["tokens"]: line[name] for line in steps.full if line[name] is not None}
        if values:
            found[name] = farthest(values)
    if steps.in_turns:
        found[_TURNS] = farthest(steps.in_turns)
    return found


def draw(steps: Steps, path: Path) -> None:
    """Plots memory and time per token against tokens."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    memory = [(line["tokens"], line["peak_bytes"]) for line in steps.lines if line["peak_bytes"] is not None]
    left.plot([at for at, _ in memory], [size / 2**20 for _, size in memory], color="#1f4e79", linewidth=1.3)
    left.set_ylabel("peak resident memory (MiB)")
    tokens = [line["tokens"] for line in steps.lines]
    for name, label, color in (
        ("median_seconds", "median of 1,000 tokens", "#8c959f"),
        ("cpu_seconds", "CPU time, mean", "#b0413e"),
        ("least_seconds", "least of 1,000 tokens", "#1f4e79"),
    ):
        right.plot(
            tokens, [1e3 * line[name] for line in steps.lines], color=color, label=label, linewidth=1.3
        )
    if steps.in_turns:
        times = [1e3 * seconds for seconds in steps.in_turns.values()]
        right.plot(list(steps.in_turns), times, "o", color="#1a7f37", label="timed in turns")
    right.set_ylabel("time per token (ms)")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tokens")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.grid(color="#e6e6e6")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.harness.report.long_generation", description=__doc__
    )
    parser.add_argument("steps", type=Path, help="the file of lines")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    options = parser.parse_args(arguments)
    try:
        steps = read(options.steps)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for name, (part, at) in flatness(steps).items():
        print(f"{name}: within {100 * part:.2f} % of its median, the farthest at {at:,} tokens")
    draw(steps, options.picture)


if __name__ == "__main__":
    main()
