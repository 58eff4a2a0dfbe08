"""T5: its encoder against transformers' default, and a step of cross attention against SDPA."""

import pytest

from bench.cases.attention import AttentionCase
from bench.cases.t5 import T5Case
from bench.harness.comparison import Budget
from bench.suites.cross_attention import cross_rows
from bench.suites.t5_encoder import t5_rows
from lckernels import BackendError


def test_t5_encoder(t5_case: T5Case, model_budget: Budget, store, log):
    pytest.importorskip("transformers")
    try:
        made = t5_rows(t5_case, model_budget, log)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)


def test_cross_attention(benchmark, cross_case: AttentionCase, attention_budget: Budget, store):
    try:
        made = cross_rows(benchmark, cross_case, attention_budget)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)
