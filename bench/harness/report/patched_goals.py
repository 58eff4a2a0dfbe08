"""What goals of patched models are about: their times and memory against transformers' own attention."""

from collections.abc import Callable

from bench.harness.report.goals import Found
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

Shape = dict[str, int | str]
DEFAULT = "default"  # the provider on transformers' own attention


def faster(
    suite: str, op: str, direction: str, peer: str = DEFAULT, shape: Shape | None = None
) -> Callable[[list[Stored], str], Found]:
    """The peer's time over ours, of rows whose shape has these sizes."""

    def found(rows: list[Stored], dtype: str) -> Found:
        for row in _rows(rows, suite, dtype, OWN, op, direction, shape):
            if peer in row["ratios"]:
                yield row["ratios"][peer], row

    return found


def smaller(
    suite: str, op: str, direction: str, peer: str = DEFAULT, shape: Shape | None = None
) -> Callable[[list[Stored], str], Found]:
    """The peer's peak memory above the model over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        of_peer = _rows(rows, suite, dtype, peer, op, direction, shape)
        sizes = {str(row["shape"]): row["extra_bytes"] for row in of_peer}
        for row in _rows(rows, suite, dtype, OWN, op, direction, shape):
            if row["extra_bytes"] and sizes.get(str(row["shape"])):
                yield sizes[str(row["shape"])] / row["extra_bytes"], row

    return found


def _rows(
    rows: list[Stored], suite: str, dtype: str, provider: str, op: str, direction: str, shape: Shape | None
) -> list[Stored]:
    wanted = (suite, provider, dtype, op, direction)
    names = ("suite", "provider", "dtype", "op", "direction")
    sizes = (shape or {}).items()
    return [row for row in rows if tuple(row[n] for n in names) == wanted and sizes <= row["shape"].items()]
