"""The goals of a patched Longformer: its attention, the whole model, their memory."""

from collections.abc import Callable

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE = "longformer"
DEFAULT = "default"  # the provider on transformers' own attention


def _faster(op: str, direction: str) -> Callable[[list[Stored], str], Found]:
    """The default's time over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        return ((row["ratios"][DEFAULT], row) for row in _rows(rows, dtype, OWN, op, direction))

    return found


def _smaller(op: str, direction: str) -> Callable[[list[Stored], str], Found]:
    """The default's peak memory above the model over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        of_default = _rows(rows, dtype, DEFAULT, op, direction)
        peers = {str(row["shape"]): row["extra_bytes"] for row in of_default}
        for row in _rows(rows, dtype, OWN, op, direction):
            if row["extra_bytes"] and peers.get(str(row["shape"])):
                yield peers[str(row["shape"])] / row["extra_bytes"], row

    return found


def _rows(rows: list[Stored], dtype: str, provider: str, op: str, direction: str) -> list[Stored]:
    wanted = (SUITE, provider, dtype, op, direction)
    names = ("suite", "provider", "dtype", "op", "direction")
    return [row for row in rows if tuple(row[name] for name in names) == wanted]


GOALS = (
    Goal(
        "attention of a layer against transformers' own",
        (5.0, None),
        _faster("Longformer_attention", "forward"),
    ),
    Goal("whole forward", (1.6, None), _faster("Longformer", "forward")),
    Goal("forward and backward", (1.8, None), _faster("Longformer", "training")),
    Goal("peak memory of a forward, the model's own / ours", (3.0, None), _smaller("Longformer", "forward")),
)
