"""Options, cases and fixtures of `pytest bench`, and the table of ratios that it prints at its end."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cases.attention import ATTENTION_FULL, ATTENTION_QUICK, CHUNKED_FULL, CHUNKED_QUICK, CROSS
from bench.cases.generation import PREFILL_FULL, PREFILL_QUICK
from bench.cases.longformer import LONGFORMER_FULL, LONGFORMER_QUICK
from bench.cases.models import MODELS_FULL, MODELS_QUICK
from bench.cases.overlap import OVERLAP_FULL, OVERLAP_QUICK, SPLIT_QUICK
from bench.cases.t5 import T5_FULL, T5_QUICK
from bench.cases.towers import TOWERS_FULL, TOWERS_QUICK
from bench.cases.training import HEADS_FULL, HEADS_QUICK, STEPS_FULL, STEPS_QUICK
from bench.harness import finished, rows
from bench.harness.comparison import Budget
from bench.harness.report import summary

QUICK = Budget(rounds=5, seconds=1.0, peer_seconds=0.2)
FULL = Budget(rounds=31, seconds=10.0, peer_seconds=4.0)
ATTENTION = Budget(rounds=15, seconds=1.5, peer_seconds=0.4, call_seconds=3.0)
MODELS = Budget(rounds=7, seconds=6.0, peer_seconds=4.0, call_seconds=60.0)
MODELS_TABLE = Budget(rounds=7, seconds=60.0, peer_seconds=30.0, call_seconds=120.0)

# Cases whose id is their label, by fixture: quick, full.
CASES = {
    "chunked_case": (CHUNKED_QUICK, CHUNKED_FULL),
    "model_case": (MODELS_QUICK, MODELS_FULL),
    "t5_case": (T5_QUICK, T5_FULL),
    "prefill_case": (PREFILL_QUICK, PREFILL_FULL),
    "longformer_case": (LONGFORMER_QUICK, LONGFORMER_FULL),
    "tower_case": (TOWERS_QUICK, TOWERS_FULL),
    "step_case": (STEPS_QUICK, STEPS_FULL),
    "head_case": (HEADS_QUICK, HEADS_FULL),
    "cross_case": (CROSS, CROSS),
}

_MEASURED = pytest.StashKey[list[rows.Row]]()


# Peers that were compiled for another value are wrong: findings/inductor_cache_of_another_cpu_capability.sh
if "ATEN_CPU_CAPABILITY" in os.environ:
    _capability = os.environ["ATEN_CPU_CAPABILITY"]
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{_capability}")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lckernels")
    group.addoption("--full", action="store_true", help="all shapes and more rounds; takes hours")
    group.addoption(
        "--rows", type=Path, default=rows.OUTPUT, help="folder for the rows (default: build/bench)"
    )
    group.addoption(
        "--resume", action="store_true", help="leave out what has finished on this machine and commit"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MEASURED] = []
    config.option.benchmark_quiet = True  # the summary below has the same times, and the peers' ratios


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
        ids = [f"{direction}-{case.label}" for direction, case in cases]
        metafunc.parametrize(("direction", "attention_case"), cases, ids=ids)
    for name, (quick, whole) in CASES.items():
        if name in metafunc.fixturenames:
            cases = whole if full else quick
            metafunc.parametrize(name, cases, ids=[case.label for case in cases])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("resume"):
        return
    names = [item.nodeid for item in items]
    left = set(finished.remaining(config.getoption("rows"), names, config.getoption("full")))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in left])
    items[:] = [item for item in items if item.nodeid in left]


@pytest.hookimpl(trylast=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    if call.when == "call" and call.excinfo is None:
        finished.record(item.config.getoption("rows"), item.nodeid, item.config.getoption("full"))


@pytest.fixture
def budget(pytestconfig: pytest.Config) -> Budget:
    return FULL if pytestconfig.getoption("full") else QUICK


@pytest.fixture
def attention_budget() -> Budget:
    return ATTENTION


@pytest.fixture
def model_budget(pytestconfig: pytest.Config) -> Budget:
    return MODELS_TABLE if pytestconfig.getoption("full") else MODELS


@pytest.fixture
def log(capsys: pytest.CaptureFixture, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line past pytest's capture, below the test's name."""
    named: list[str] = []

    def write(line: str) -> None:
        with capsys.disabled():
            if not named:
                named.append(request.node.name)
                print(f"\n{request.node.name}")
            print(line)

    return write


@pytest.fixture
def store(pytestconfig: pytest.Config) -> Callable[[list[rows.Row]], None]:
    """Appends rows to the folder given by --rows and to the summary."""

    def append(made: list[rows.Row]) -> None:
        rows.append(made, pytestconfig.getoption("rows"))
        pytestconfig.stash[_MEASURED] += made

    return append


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the time of every case and its ratio to each peer."""
    lines = summary.lines(config.stash[_MEASURED])
    if lines:
        folder = config.getoption("rows")
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"rows: {folder}; pages: python -m bench.harness.report {folder}")
