"""Longformer: the attention of a layer and whole models, patched, against transformers' own."""

import pytest

from bench.cases.longformer import LongformerCase
from bench.harness.comparison import Budget
from bench.suites.longformer import longformer_rows
from lckernels import BackendError


def test_longformer(longformer_case: LongformerCase, model_budget: Budget, store, log):
    pytest.importorskip("transformers")
    try:
        made = longformer_rows(longformer_case, model_budget, log)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)
