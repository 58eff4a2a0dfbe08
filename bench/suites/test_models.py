"""Whole models: lckernels.patched against transformers' own attention, and against no attention."""

import pytest

from bench.cases import smollm2
from bench.cases.models import ModelCase
from bench.harness.comparison import Budget
from bench.suites import model_comparison
from lckernels import BackendError


def test_models(benchmark, model_case: ModelCase, model_budget: Budget, store, log):
    if model_case.real and smollm2.missing():
        log(f"  skipped: {smollm2.missing()}")
        pytest.skip(smollm2.missing())
    try:
        made = model_comparison.compare(benchmark, model_case, model_budget, log)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)
