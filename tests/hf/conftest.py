"""Every test of this folder has the mark `hf`; `--hf-table` requires the whole sweep."""


def pytest_itemcollected(item):
    item.add_marker("hf")


def pytest_collection_finish(session):
    if not session.config.getoption("--hf-table"):
        return
    from helpers.hf_table import missing_cases
    from helpers.written_tables import require_cases

    command = "pytest tests/hf/test_hf_parity.py -m hf --hf-table PATH"
    require_cases(session, "--hf-table", ("name", "check"), missing_cases, command)
