"""What goals of patched models are about: their times and memory against transformers' own attention."""

from collections.abc import Callable

from bench.harness.report.goals import Found
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

DEFAULT = "default"  # the provider on transformers' own attention


def faster(suite: str, op: str, direction: str) -> Callable[[list[Stored], str], Found]:
    """The default's time over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        return ((row["ratios"][DEFAULT], row) for row in _rows(rows, suite, dtype, OWN, op, direction))

    return found


def smaller(suite: str, op: str, direction: str) -> Callable[[list[Stored], str], Found]:
    """The default's peak memory above the model over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        of_default = _rows(rows, suite, dtype, DEFAULT, op, direction)
        peers = {str(row["shape"]): row["extra_bytes"] for row in of_default}
        for row in _rows(rows, suite, dtype, OWN, op, direction):
            if row["extra_bytes"] and peers.get(str(row["shape"])):
                yield peers[str(row["shape"])] / row["extra_bytes"], row

    return found


def _rows(rows: list[Stored], suite: str, dtype: str, provider: str, op: str, direction: str) -> list[Stored]:
    wanted = (suite, provider, dtype, op, direction)
    names = ("suite", "provider", "dtype", "op", "direction")
    return [row for row in rows if tuple(row[name] for name in names) == wanted]
