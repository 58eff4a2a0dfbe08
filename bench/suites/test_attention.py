"""windowed_attention forward, backward and in decoding, and chunked_attention, against their peers."""

import pytest

from bench.cases.attention import AttentionCase, ChunkedCase
from bench.harness.comparison import Budget
from bench.suites import attention_comparison, chunked
from lckernels import BackendError


def test_attention(
    benchmark, attention_case: AttentionCase, direction: str, attention_budget: Budget, store, log
):
    try:
        made = attention_comparison.compare(benchmark, attention_case, direction, attention_budget, log)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_chunked_attention(
    benchmark, chunked_case: ChunkedCase, direction: str, attention_budget: Budget, store
):
    try:
        made = chunked.compare(benchmark, chunked_case, direction, attention_budget)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)
