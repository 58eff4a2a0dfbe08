"""The report of packed linear layers: a row for each shape."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearRow:
    """The linear layers of one shape.

    Attributes:
        in_features, out_features: of the layers.
        dtype: of their weights, such as "bfloat16".
        layers: names of the modules.
        speedup: time of torch's own code divided by that on the packed weight, measured for one row, for few
            (2 to 63) and for many; 0 where it was not measured.
        packed: whether each of these three runs on the packed weight.
        reason: why the layers are left; empty if some calls run on the packed weight.
    """

    in_features: int
    out_features: int
    dtype: str
    layers: tuple[str, ...]
    speedup: tuple[float, float, float] = (0.0, 0.0, 0.0)
    packed: tuple[bool, bool, bool] = (False, False, False)
    reason: str = ""


@dataclass(frozen=True)
class LinearReport:
    """What linear="packed" changed. `str()` is a table.

    Attributes:
        rows: one for each shape, dtype and reason.
        nbytes: memory of the packed weights, beside that of the weights.
    """

    rows: tuple[LinearRow, ...]
    nbytes: int = 0

    @property
    def packed(self) -> tuple[str, ...]:
        """Names of the layers that some calls run on packed weights."""
        return tuple(name for row in self.rows if any(row.packed) for name in row.layers)

    def __str__(self) -> str:
        lines = [("in x out", "dtype", "layers", "1 row", "2-63 rows", "64+ rows", "result")]
        for row in self.rows:
            ratios = (
                (f"{ratio:.2f}x" + ("" if used else " (own)")) if ratio else "-"
                for ratio, used in zip(row.speedup, row.packed, strict=True)
            )
            result = f"left: {row.reason}" if row.reason else "packed"
            size = f"{row.in_features} x {row.out_features}"
            lines.append((size, row.dtype, str(len(row.layers)), *ratios, result))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ("  ".join(x.ljust(n) for x, n in zip(line, widths, strict=True)).rstrip() for line in lines)
        total = sum(len(row.layers) for row in self.rows)
        head = f"{len(self.packed)} of {total} linear layers packed by oneDNN"
        return "\n".join([f"{head}, {self.nbytes / 2**20:,.1f} MiB beside their weights", *table])
