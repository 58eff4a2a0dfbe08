"""A vision tower that loops over windows: the attention of a layer and the whole tower, patched."""

import pytest

from bench.cases.towers import TowerCase
from bench.harness.comparison import Budget
from bench.suites.towers import tower_rows
from lckernels import BackendError


def test_tower(tower_case: TowerCase, model_budget: Budget, store, log):
    pytest.importorskip("transformers")
    try:
        made = tower_rows(tower_case, model_budget, log)
    except BackendError as error:
        pytest.skip(str(error))
    store(made)
