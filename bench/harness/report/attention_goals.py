"""The goals of windowed_attention on a CPU."""

from collections.abc import Callable, Iterable, Iterator

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE = "attention"
_WINDOW, _CAUSAL = "511,0", "-1,0"
_LONG = 4096
_SLACK = 2**20  # bytes of scratch memory of the threads
_PACKED_BYTES = {"float32": 4, "bfloat16": 2}


def _own(rows: Iterable[Stored], direction: str, dtype: str, window: str | None = None) -> Iterator[Stored]:
    return (
        row
        for row in rows
        if (row["provider"], row["op"], row["direction"]) == (OWN, "windowed_attention", direction)
        and row["dtype"] == dtype
        and window in (None, row["shape"]["window"])
    )


def _share_of_peak(direction: str) -> Callable[[list[Stored], str], Found]:
    def found(rows: list[Stored], dtype: str) -> Found:
        for row in _own(rows, direction, dtype, _WINDOW):
            long = row["shape"]["seqlen"] >= _LONG and row["shape"]["head_dim"] in (64, 128)
            if long and row["percent_alike"] is not None:
                yield row["percent_alike"] / 100, row

    return found


def _against_flex(rows: list[Stored], dtype: str) -> Found:
    for row in _own(rows, "forward", dtype, _WINDOW):
        if (
            row["shape"]["seqlen"] >= _LONG
            and row["shape"]["head_dim"] in (64, 128)
            and "flex" in row["ratios"]
        ):
            yield row["ratios"]["flex"], row


def _against_sdpa_causal(rows: list[Stored], dtype: str) -> Found:
    for row in _own(rows, "forward", dtype, _CAUSAL):
        if row["shape"]["seqlen"] == 2 * _LONG and "sdpa_causal" in row["ratios"]:
            yield row["ratios"]["sdpa_causal"], row


def _both_against_sdpa_mask(rows: list[Stored], dtype: str) -> Found:
    """Time of the peer's forward and backward over ours, where both were measured."""
    backwards = {str(row["shape"]): row for row in _own(rows, "backward", dtype, _WINDOW)}
    for row in _own(rows, "forward", dtype, _WINDOW):
        other = backwards.get(str(row["shape"]))
        both = [row, other] if other else []
        if row["shape"]["seqlen"] == _LONG and both and all("sdpa_mask" in one["ratios"] for one in both):
            ours = [one["timing"]["median"] for one in both]
            theirs = [one["ratios"]["sdpa_mask"] * t for one, t in zip(both, ours, strict=True)]
            yield sum(theirs) / sum(ours), row


def _share_of_reads(rows: list[Stored], dtype: str) -> Found:
    return ((row["percent"] / 100, row) for row in _own(rows, "decode", dtype) if row["percent"] is not None)


def _growth(rows: list[Stored], dtype: str) -> Found:
    """t(64k) / t(8k) of rows alike in all but seqlen."""
    of_window = list(_own(rows, "forward", dtype, _WINDOW))
    for short in of_window:
        for long in of_window:
            lengths = (short["shape"]["seqlen"], long["shape"]["seqlen"])
            if lengths == (8192, 65536) and short["shape"] | {"seqlen": 65536} == long["shape"]:
                yield long["timing"]["median"] / short["timing"]["median"], long


def _workspace(rows: list[Stored], dtype: str) -> Found:
    """Memory above inputs and results over one K, one V, lse and delta in fp32 and _SLACK for the threads."""
    for direction in ("forward", "backward"):
        for row in _own(rows, direction, dtype):
            shape, extra = row["shape"], row.get("extra_bytes")
            if shape["seqlen"] < _LONG or extra is None:
                continue
            heads, kv_heads = (int(x) for x in shape["heads"].split(":"))
            tokens = shape["batch"] * shape["seqlen"]
            packed = 2 * tokens * kv_heads * shape["head_dim"] * _PACKED_BYTES[dtype]
            yield extra / (packed + 2 * 4 * tokens * heads + _SLACK), row


GOALS = (
    Goal("forward, W=512, D=64 and 128, N >= 4096: rate / FMA peak", (0.72, 0.68), _share_of_peak("forward")),
    Goal("forward, the same shapes, against FlexAttention compiled", (3.0, 7.0), _against_flex),
    Goal("forward + backward, N=4096, against SDPA with a mask", (8.0, 8.0), _both_against_sdpa_mask),
    Goal("backward, the shapes of the forward: rate / FMA peak", (0.60, 0.30), _share_of_peak("backward")),
    Goal("full causal, N=8192, against SDPA is_causal", (1.3, 1.3), _against_sdpa_causal),
    Goal("decode, K and V above 4 last-level caches: rate / read bandwidth", (0.8, 0.8), _share_of_reads),
    Goal("linear in N: t(64k) / t(8k), forward", (8.5, 8.5), _growth, at_most=True),
    Goal(
        "peak memory above inputs and results / (K, V, lse, delta and 1 MiB), N >= 4096",
        (1.0, 1.0),
        _workspace,
        True,
    ),
)
