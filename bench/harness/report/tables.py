"""Markdown tables of stored rows: times and ratios, peak memory, peak rates, peers left out."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.harness.report.stored import Stored, commit_of, groups
from bench.harness.rows import OWN

# By unit and direction: what the two percentages of a row are of.
_BANDWIDTH = ("% of memcpy, same total bytes", "% of memcpy, same reads and writes")
_FLOPS = ("% of FMA peak, AMX included", "% of FMA peak")
_READS = ("% of read bandwidth", "")


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is its header."""
    head, *body = rows
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body)]


def milliseconds(seconds: float) -> str:
    """Three significant digits, no exponent."""
    return f"{1e3 * seconds:.3g}" if seconds < 0.9995 else f"{1e3 * seconds:.0f}"


def percent(value: float | None) -> str:
    """Whole percent; empty for None."""
    return "" if value is None else f"{value:.0f} %"


def percent_headings(unit: str, direction: str) -> tuple[str, str]:
    """Headings of `percent` and `percent_alike`; the second is empty where both are the same."""
    if direction == "decode":
        return _READS
    return _BANDWIDTH if unit == "GB/s" else _FLOPS


def times(rows: list[Stored]) -> list[str]:
    """One line per case and kind of output: lckernels' time and rate, and each peer's time over it."""
    own = [row for row in rows if row["provider"] == OWN]
    peers = list(dict.fromkeys(peer for row in own for peer in row["ratios"]))
    names = list(dict.fromkeys(name for row in own for name in row["shape"]))
    unit = rows[0]["unit"]
    first, second = percent_headings(unit, rows[0]["direction"])
    head = [*names, "dtype", "output", "backend", "ms (20-80 %)", unit, first]
    head += [*([second] if second else []), *(f"{peer} / lckernels" for peer in peers), "measured"]
    body = []
    for row in own:
        timing = row["timing"]
        spread = f"{milliseconds(timing['p20'])}-{milliseconds(timing['p80'])}"
        body.append(
            [str(row["shape"].get(name, "")) for name in names]
            + [row["dtype"], row["output"], row["backend"]]
            + [f"{milliseconds(timing['median'])} ({spread})", f"{row['rate']:.3g}", percent(row["percent"])]
            + ([percent(row["percent_alike"])] if second else [])
            + [f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "" for peer in peers]
            + [f"{row['date'][:10]} {commit_of(row)}"]
        )
    return lines([head, *body])


def peak_rates(rows: list[Stored]) -> str:
    """The lowest and highest measurement of each peak rate over the rows."""
    spans: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, rate in row["ceilings"].items():
            spans[name].append(rate)
    spans_text = (f"{name} {min(rates):.3g}-{max(rates):.3g}" for name, rates in spans.items())
    return "; ".join(spans_text) or "none measured"


def memory(rows: list[Stored]) -> list[str]:
    """Peak memory by provider, a line per case; empty if no row has it."""
    if all(row.get("extra_bytes") is None for row in rows):
        return []
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    names = list(dict.fromkeys(name for row in rows for name in row["shape"]))
    body = []
    for of_case in cases(rows):
        extra = {row["provider"]: row["extra_bytes"] for row in of_case if row.get("extra_bytes") is not None}
        sizes = [f"{extra[name] / 2**20:.3g}" if name in extra else "" for name in providers]
        shape = [str(of_case[0]["shape"].get(name, "")) for name in names]
        body.append([*shape, of_case[0]["dtype"], *sizes])
    head = [*names, "dtype", *providers]
    return ["", "Peak memory above inputs and results, MiB:", "", *lines([head, *body])]


def cases(rows: list[Stored]) -> list[list[Stored]]:
    """The rows of each case, in the order of the rows."""
    found = groups(rows, 6)
    order = {id(row): place for place, row in enumerate(rows)}
    return sorted(found.values(), key=lambda of_case: order[id(of_case[0])])


def left_out(rows: list[Stored]) -> list[str]:
    """Notes on providers that compute something else; peers left out, with the reason and the case count."""
    counts = Counter(reason for row in rows for reason in row.get("left_out", {}).items())
    notes = dict.fromkeys((row["provider"], row["note"]) for row in rows if row.get("note"))
    found = [f"{peer}: {reason} ({number})" for (peer, reason), number in sorted(counts.items())]
    text = []
    if notes:
        text += ["", " ".join(f"{provider} {note}." for provider, note in notes)]
    if found:
        text += ["", f"Left out (cases): {'; '.join(found)}."]
    return text
