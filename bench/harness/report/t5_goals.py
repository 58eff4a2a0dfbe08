"""The goals of T5: its patched encoder, and a step of cross attention."""

from collections.abc import Callable, Iterator

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE = "t5"
ENCODER, DEFAULT = "T5_encoder", "default"  # op, and the provider on transformers' attention
FULL = "-1,-1"


def _own(rows: list[Stored], dtype: str) -> Iterator[Stored]:
    return (row for row in rows if (row["suite"], row["provider"], row["dtype"]) == (SUITE, OWN, dtype))


def _encoder(rows: list[Stored], dtype: str, seqlen: int, full: bool) -> Iterator[Stored]:
    for row in _own(rows, dtype):
        shape = row["shape"]
        if row["op"] == ENCODER and shape["seqlen"] == seqlen and (shape["window"] == FULL) == full:
            yield row


def _faster(seqlen: int, full: bool) -> Callable[[list[Stored], str], Found]:
    """The default's time over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        return ((row["ratios"][DEFAULT], row) for row in _encoder(rows, dtype, seqlen, full))

    return found


def _smaller(seqlen: int) -> Callable[[list[Stored], str], Found]:
    """The default's peak memory above the model over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        peers = {str(row["shape"]): row["extra_bytes"] for row in rows if row["provider"] == DEFAULT}
        for row in _encoder(rows, dtype, seqlen, full=True):
            if row["extra_bytes"] and peers.get(str(row["shape"])):
                yield peers[str(row["shape"])] / row["extra_bytes"], row

    return found


def _step(rows: list[Stored], dtype: str) -> Found:
    return ((row["ratios"]["sdpa"], row) for row in _own(rows, dtype) if row["direction"] == "decode")


GOALS = (
    Goal("T5 encoder, N=8k, exact, against the default", (2.0, None), _faster(8192, full=True)),
    Goal("the same: peak memory of the default / ours", (8.0, None), _smaller(8192)),
    Goal("T5 encoder, N=8k, window of 512", (4.5, None), _faster(8192, full=False)),
    Goal("T5 encoder, N=16k, window of 512", (8.0, None), _faster(16384, full=False)),
    Goal("cross attention, one query, 64k keys, against sdpa", (1.2, 1.2), _step),
)
