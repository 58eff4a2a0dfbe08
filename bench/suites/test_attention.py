"""windowed_attention forward, backward and in decoding, and chunked_attention, against the other ways."""

import pytest

from bench.cases.attention import AttentionCase, ChunkedCase
from bench.harness import rows
from bench.harness.comparison import Effort
from bench.suites import attention_comparison, chunked
from lckernels import BackendError


def test_attention(
    benchmark, attention_case: AttentionCase, direction: str, attention_effort: Effort, rows_folder, tell
):
    try:
        made = attention_comparison.contest(benchmark, attention_case, direction, attention_effort, tell)
    except BackendError as error:
        pytest.skip(str(error))
    rows.append(made, rows_folder)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_chunked_attention(
    benchmark, chunked_case: ChunkedCase, direction: str, attention_effort: Effort, rows_folder
):
    try:
        made = chunked.contest(benchmark, chunked_case, direction, attention_effort)
    except BackendError as error:
        pytest.skip(str(error))
    rows.append(made, rows_folder)
