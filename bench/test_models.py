"""Whole models: lckernels.patched against transformers' own attention, and against no attention."""

import pytest

from bench import model_contest, rows, smollm2
from bench.contest import Effort
from bench.model_cases import ModelCase
from lckernels import BackendError


def test_models(benchmark, model_case: ModelCase, model_effort: Effort, rows_folder, tell):
    if model_case.real and smollm2.missing():
        tell(f"  skipped: {smollm2.missing()}")
        pytest.skip(smollm2.missing())
    try:
        made = model_contest.contest(benchmark, model_case, model_effort, tell)
    except BackendError as error:
        pytest.skip(str(error))
    rows.append(made, rows_folder)
