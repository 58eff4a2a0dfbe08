"""Options of `pytest bench`: the quick suite unless --full is given; rows go to --rows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cases.attention import ATTENTION_FULL, ATTENTION_QUICK, CHUNKED_FULL, CHUNKED_QUICK
from bench.cases.models import MODELS_FULL, MODELS_QUICK
from bench.cases.overlap import OVERLAP_FULL, OVERLAP_QUICK, SPLIT_QUICK
from bench.harness.comparison import Effort
from bench.harness.rows import RESULTS

QUICK = Effort(rounds=5, seconds=1.0, peer_seconds=0.2)
FULL = Effort(rounds=31, seconds=10.0, peer_seconds=4.0)
ATTENTION = Effort(rounds=15, seconds=1.5, peer_seconds=0.4, call_seconds=3.0)
MODELS = Effort(rounds=7, seconds=6.0, peer_seconds=4.0, call_seconds=60.0)
MODELS_TABLE = Effort(rounds=7, seconds=60.0, peer_seconds=30.0, call_seconds=120.0)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lckernels")
    group.addoption("--full", action="store_true", help="all shapes and more rounds, hours")
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
        contests = ATTENTION_FULL if full else ATTENTION_QUICK
        ids = [f"{direction}-{case.label}" for direction, case in contests]
        metafunc.parametrize(("direction", "attention_case"), contests, ids=ids)
    if "chunked_case" in metafunc.fixturenames:
        cases = CHUNKED_FULL if full else CHUNKED_QUICK
        metafunc.parametrize("chunked_case", cases, ids=[case.label for case in cases])
    if "model_case" in metafunc.fixturenames:
        cases = MODELS_FULL if full else MODELS_QUICK
        metafunc.parametrize("model_case", cases, ids=[case.label for case in cases])


@pytest.fixture
def effort(pytestconfig: pytest.Config) -> Effort:
    return FULL if pytestconfig.getoption("full") else QUICK


@pytest.fixture
def attention_effort() -> Effort:
    return ATTENTION


@pytest.fixture
def model_effort(pytestconfig: pytest.Config) -> Effort:
    return MODELS_TABLE if pytestconfig.getoption("full") else MODELS


@pytest.fixture
def tell(capsys: pytest.CaptureFixture, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints past pytest's capture, under the test's name."""
    named: list[str] = []

    def say(line: str) -> None:
        with capsys.disabled():
            if not named:
                named.append(request.node.name)
                print(f"\n{request.node.name}")
            print(line)

    return say


@pytest.fixture
def rows_folder(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.getoption("rows")
