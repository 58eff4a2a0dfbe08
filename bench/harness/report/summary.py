"""The rows of one run as a plain text table, for the end of `pytest bench`."""

from bench.harness.rows import OWN, Row

_HEAD = ("op", "shape", "time", "rate", "of peak", "time of each peer / time of lckernels")


def lines(rows: list[Row]) -> list[str]:
    """A line per case of ours: op, shape, time, share of the peak rate, each peer's time over ours."""
    found = []
    for row in rows:
        if row.provider != OWN:
            continue
        shape = " ".join(f"{name}={value}" for name, value in row.shape.items())
        percent = row.percent(row.comparable or row.percent_of)
        share = "" if percent is None else f"{percent:.0f} %"
        ratios = "  ".join(f"{peer} {ratio:.2f}x" for peer, ratio in row.ratios.items())
        op = f"{row.op} {row.direction} {row.dtype} {row.output}".rstrip()
        time = f"{1e3 * row.timing.median:.3g} ms"
        found.append((op, shape, time, f"{row.rate:.3g} {row.unit}", share, ratios))
    if not found:
        return []
    widths = [max(map(len, column)) for column in zip(_HEAD, *found, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (_HEAD, *found)
    ]
