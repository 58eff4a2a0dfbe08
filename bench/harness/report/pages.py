"""The Markdown pages of a folder of rows: an index, and pages per suite and direction, newest rows first."""

from collections import defaultdict
from pathlib import Path

from bench.harness.report import (
    attention_goals,
    encoder_goals,
    generation_goals,
    goals,
    host_time_goals,
    lengthen_goals,
    longformer_goals,
    model_goals,
    plots,
    t5_goals,
    tables,
    tower_goals,
    training_goals,
)
from bench.harness.report.stored import (
    Stored,
    case_of,
    commit_of,
    days,
    groups,
    load,
    machine_of,
    newest,
    shape_of,
    versions_of,
)
from bench.harness.rows import OWN

INDEX = "README.md"
MAX_LINES = 400  # of a page
_NEWEST_ROWS = 60  # of a machine on the newest day that the index lists

_HEAD = """# Benchmark results

Generated from the rows (`*.jsonl`) in this folder by `python -m bench.harness.report`; do not edit.
[How to run the benchmarks and add a peer](../README.md).

- Every result is compared with the reference before it is timed. Peers are timed in turns with lckernels, in
  the same run.
- `peer / lckernels` is the peer's median time divided by ours: 3.00 means that the peer took three times as
  long.
- GB/s count the bytes that must move at least once. GFLOP/s count the (query, key) pairs inside the window;
  a backward counts 2.5 times its forward.
- "% of ..." compares the rate with a peak rate that was measured in the same run.
- Output "fresh" is newly allocated memory, "warm" memory that was written before.
- Peak memory is what a call needs above its inputs and results (for a backward, its forward included).
- One row is shown per machine and shape: the newest. `measured` is its day and commit."""


def write(folder: Path) -> list[Path]:
    """Writes the pages and plots of the rows in `folder`.

    Returns:
        The written paths, the index first.

    Raises:
        ValueError: The folder has no rows.
    """
    rows = load(folder)
    if not rows:
        raise ValueError(f"{folder} holds no rows; pytest bench writes them")
    pages = suite_pages(rows)
    written = [folder / INDEX]
    written[0].write_text(index(rows, pages))
    for name, text in pages.items():
        written.append(folder / name)
        written[-1].write_text(text)
    return written + plots.draw(rows, folder)


def suite_pages(rows: list[Stored]) -> dict[str, str]:
    """File name -> text. A page continues on a second one (`-2`) where it would exceed MAX_LINES lines."""
    found: dict[tuple[str, str], list[list[str]]] = defaultdict(list)
    names = plots.file_names(rows)
    for section, of_section in groups(rows, 4).items():
        _, suite, op, direction = section
        images = names.get(section, []) + names.get(section[:2], [])
        found[suite, direction] += _section(op, direction, of_section, images)
    pages = {}
    for (suite, direction), blocks in found.items():
        for number, lines in enumerate(_packed(blocks), 1):
            title = f"# {suite}, {direction}" + (f", page {number}" if number > 1 else "")
            name = f"{suite}-{direction}" + (f"-{number}" if number > 1 else "")
            head = [title, "", f"Generated; [how to read the tables]({INDEX})."]
            pages[f"{name}.md"] = "\n".join(head + lines) + "\n"
    return pages


def _section(op: str, direction: str, rows: list[Stored], images: list[str]) -> list[list[str]]:
    """The blocks of one machine's rows: times, then peak memory; a block is not divided between pages."""
    versions = "; ".join(sorted({versions_of(row) for row in rows}))
    title = f"{op}, {direction}: {machine_of(rows[0])}"
    text = ["", f"## {title}", "", f"Measured {days(rows)}; {versions}.", "", *tables.times(rows)]
    text += ["", f"Peak rates, {rows[0]['unit']}: {tables.peak_rates(rows)}."]
    text += tables.left_out(rows)
    text += [line for image in images for line in ("", f"![{Path(image).stem}]({image})")]
    memory = tables.memory(rows)
    return [text, ["", f"## Memory of {title}", *memory]] if memory else [text]


def _packed(blocks: list[list[str]]) -> list[list[str]]:
    """Consecutive blocks joined to pages of at most MAX_LINES lines; a longer block is its own page."""
    pages: list[list[str]] = [[]]
    for block in blocks:
        if pages[-1] and len(pages[-1]) + len(block) > MAX_LINES - 4:
            pages.append([])
        pages[-1] += block
    return pages


def index(rows: list[Stored], pages: dict[str, str]) -> str:
    """The first page: the rows of the newest day, all sections by date, goals, other tables."""
    day = newest(rows)[:10]
    text = [_HEAD, "", f"## Newest rows: {day}", *_newest_rows(rows, day)]
    text += ["", "## All measurements, newest first", "", *_sections(rows, pages)]
    for title, suite, wanted in (
        ("windowed_attention", attention_goals.SUITE, attention_goals.GOALS),
        ("whole models", model_goals.SUITE, model_goals.GOALS),
        ("LongEncoder", encoder_goals.SUITE, encoder_goals.GOALS),
        ("T5", t5_goals.SUITE, t5_goals.GOALS),
        ("generation", generation_goals.SUITE, generation_goals.GOALS),
        ("Longformer", longformer_goals.SUITE, longformer_goals.GOALS),
        ("vision towers", tower_goals.SUITE, tower_goals.GOALS),
        ("training", training_goals.SUITE, training_goals.GOALS),
        ("lengthened models", lengthen_goals.SUITE, lengthen_goals.GOALS),
        ("host time", host_time_goals.SUITE, host_time_goals.GOALS),
    ):
        of_suite = groups((row for row in rows if row["suite"] == suite), 1)
        for (machine,), of_machine in of_suite.items():
            text += ["", f"## Goals of {title}: {machine}", "", f"Measured {days(of_machine)}.", ""]
            text += goals.table(of_machine, wanted)
    text += ["", "## Compiled kernels", ""]
    text += ["[Triton, compiled for sm_90](triton_compile.md); [CUDA, compiled by nvcc](cuda_compile.md)."]
    return "\n".join(text) + "\n"


def _newest_rows(rows: list[Stored], day: str) -> list[str]:
    """Our rows of one day, a table per machine, with the fastest peer that computes the same."""
    text = []
    for (machine,), of_machine in groups((row for row in rows if row["date"].startswith(day)), 1).items():
        own = [row for row in of_machine if row["provider"] == OWN]
        cells = [["op", "shape", "dtype", "ms", "rate", "fastest peer / lckernels", "commit"]]
        for row in own[:_NEWEST_ROWS]:
            output = f", {row['output']} output" if row["output"] else ""
            peer = fastest_peer(row, rows)
            line = [f"{row['op']}, {row['direction']}", shape_of(row) + output, row["dtype"]]
            line += [tables.milliseconds(row["timing"]["median"]), f"{row['rate']:.3g} {row['unit']}"]
            cells.append([*line, f"{peer[1]:.2f} ({peer[0]})" if peer else "", commit_of(row)])
        versions = "; ".join(sorted({versions_of(row) for row in own}))
        more = (
            f" {len(own) - _NEWEST_ROWS} more rows are on the pages below." if len(own) > _NEWEST_ROWS else ""
        )
        text += ["", f"{machine}; {versions}.{more}", "", *tables.lines(cells)]
    return text


def fastest_peer(row: Stored, rows: list[Stored]) -> tuple[str, float] | None:
    """Name and ratio of the fastest peer, without those marked as computing something else in its case."""
    other = {peer["provider"] for peer in rows if case_of(peer) == case_of(row) and peer.get("note")}
    equal = {name: ratio for name, ratio in row["ratios"].items() if name not in other}
    return min(equal.items(), key=lambda one: one[1], default=None)


def _sections(rows: list[Stored], pages: dict[str, str]) -> list[str]:
    """A line per machine, op and direction: day, commits, number of cases, page."""
    cells = [["measured", "machine", "op", "suite", "cases", "commits", "page"]]
    for (machine, suite, op, direction), found in groups(rows, 4).items():
        commits = ", ".join(sorted({commit_of(row) for row in found}))
        title = f"## {op}, {direction}: {machine}\n"
        of_suite = ((name, text) for name, text in pages.items() if name.startswith(f"{suite}-{direction}"))
        page = next(name for name, text in of_suite if title in text)
        count = str(len(groups(found, 6)))
        cells.append([days(found), machine, f"{op}, {direction}", suite, count, commits, f"[{page}]({page})"])
    return tables.lines(cells)
