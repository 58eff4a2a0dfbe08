"""The goals of LongEncoder: MiniLM over the book in chunks of 512 tokens, on a CPU."""

from collections.abc import Callable

from bench.harness.report.goals import Found, Goal
from bench.harness.report.stored import Stored
from bench.harness.rows import OWN

SUITE = "encoder"
CHUNK_LEN = 512


SDPA = "torch_attention"  # the provider of merge="final" on torch's attention


def _against(merge: str, peer: str) -> Callable[[list[Stored], str], Found]:
    """The peer's time over ours."""

    def found(rows: list[Stored], dtype: str) -> Found:
        for row in rows:
            of_case = (row["suite"], row["provider"], row["op"], row["dtype"], row["shape"]["chunk_len"])
            if of_case == (SUITE, OWN, f"LongEncoder_{merge}", dtype, CHUNK_LEN) and peer in row["ratios"]:
                yield row["ratios"][peer], row

    return found


GOALS = (
    Goal(
        "MiniLM, chunks of 512, merged once, against sdpa", (1.5, 1.55), _against("final", "torch_attention")
    ),
    Goal("the same, against onnxruntime with fused attention", (1.6, None), _against("final", "onnxruntime")),
    Goal("merged in each layer, against sdpa merged once", (1.8, None), _against("layer", SDPA)),
)
