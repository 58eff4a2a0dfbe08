"""A training step of SmolLM2 with a window, and the loss of its head."""

import pytest

from bench.cases import smollm2
from bench.cases.training import HeadCase, StepCase
from bench.harness.comparison import Budget
from bench.suites.loss_head import head_rows
from bench.suites.training_step import step_rows


def test_step(step_case: StepCase, model_budget: Budget, store, log):
    if smollm2.missing():
        log(f"  skipped: {smollm2.missing()}")
        pytest.skip(smollm2.missing())
    store(step_rows(step_case, *step_case.build(), model_budget, log))


def test_head(head_case: HeadCase, model_budget: Budget, store, log):
    store(head_rows(head_case, model_budget, log))
