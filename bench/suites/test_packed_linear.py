"""Whole models on packed weights against the same models without."""

import pytest

from bench.suites.packed_linear import CASES, FULL_CASES, PackedCase, packed_linear_rows


@pytest.mark.parametrize("case", CASES, ids=[case.label for case in CASES])
def test_packed_linear(case: PackedCase, store):
    pytest.importorskip("transformers")
    store(packed_linear_rows(case))


@pytest.mark.parametrize("case", FULL_CASES, ids=[case.label for case in FULL_CASES])
def test_packed_linear_full(case: PackedCase, store, pytestconfig):
    if not pytestconfig.getoption("full"):
        pytest.skip("a forward takes half a minute; run with --full")
    store(packed_linear_rows(case, rounds=3))
