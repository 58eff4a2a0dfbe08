"""Options of `pytest bench`: the quick suite unless --full is given; rows go to --rows."""

from pathlib import Path

import pytest

from bench.cases import ATTENTION_FULL, ATTENTION_QUICK, OVERLAP_FULL, OVERLAP_QUICK, SPLIT_QUICK
from bench.contest import Effort
from bench.rows import RESULTS

QUICK = Effort(rounds=5, seconds=1.0, peer_seconds=0.2)
FULL = Effort(rounds=31, seconds=10.0, peer_seconds=4.0)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lckernels")
    group.addoption("--full", action="store_true", help="all shapes and more rounds, about half an hour")
    group.addoption("--rows", type=Path, default=RESULTS, help="folder for the rows (default: bench/results)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    full = metafunc.config.getoption("full")
    if "overlap_case" in metafunc.fixturenames:
        split_cases = OVERLAP_FULL if full else SPLIT_QUICK
        cases = {"overlap_merge": OVERLAP_FULL if full else OVERLAP_QUICK, "overlap_split": split_cases}
        pairs = [(op, case) for op, of_op in cases.items() for case in of_op]
        metafunc.parametrize(
            ("overlap_op", "overlap_case"), pairs, ids=[f"{op}-{case.label}" for op, case in pairs]
        )
    if "attention_case" in metafunc.fixturenames:
        cases = ATTENTION_FULL if full else ATTENTION_QUICK
        metafunc.parametrize("attention_case", cases, ids=[case.label for case in cases])


@pytest.fixture
def effort(pytestconfig: pytest.Config) -> Effort:
    return FULL if pytestconfig.getoption("full") else QUICK


@pytest.fixture
def rows_folder(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.getoption("rows")
