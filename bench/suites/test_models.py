"""Whole models: lckernels.patched against transformers' own attention, and against no attention."""

import pytest

from bench.cases import smollm2
from bench.cases.models import ModelCase
from bench.harness import rows
from bench.harness.comparison import Effort
from bench.suites import model_comparison
from lckernels import BackendError


def test_models(benchmark, model_case: ModelCase, model_effort: Effort, rows_folder, tell):
    if model_case.real and smollm2.missing():
        tell(f"  skipped: {smollm2.missing()}")
        pytest.skip(smollm2.missing())
    try:
        made = model_comparison.contest(benchmark, model_case, model_effort, tell)
    except BackendError as error:
        pytest.skip(str(error))
    rows.append(made, rows_folder)
