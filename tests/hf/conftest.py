"""Every test of this folder has the mark `hf`; `--hf-table` requires the whole sweep."""

import pytest


def pytest_itemcollected(item):
    item.add_marker("hf")


def pytest_collection_finish(session):
    if not session.config.getoption("--hf-table"):
        return
    from helpers.hf_table import missing_cases

    found = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    missing = missing_cases([(case["name"], case["check"]) for case in found if {"name", "check"} <= {*case}])
    if missing:
        named = ", ".join(missing[:3])
        raise pytest.UsageError(
            f"--hf-table: got a selection without {len(missing)} architectures ({named}, ...); expected all: "
            "pytest tests/hf/test_hf_parity.py -m hf --hf-table PATH"
        )
