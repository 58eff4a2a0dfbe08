"""Options, marks and fixtures of all tests. In every test new tensors hold NaN, and the seed is 0."""

import io
from contextlib import redirect_stderr
from functools import cache
from unittest.mock import patch

import pytest
import torch
from helpers.marks import marks_of_case


def pytest_addoption(parser):
    random = parser.getgroup("random problems (test_random_attention.py)")
    random.addoption("--random-seed", type=int, default=0, help="the seed all problems are drawn from")
    random.addoption("--random-problems", type=int, default=2000, help="how many problems to draw")
    random.addoption("--random-problem", type=int, help="index of the only problem to run")
    traces = parser.getgroup("traces of the ops (opcheck.py)")
    traces.addoption("--every-trace", action="store_true", help="of every call, not of new forms only")
    parity = parser.getgroup("transformers' models (test_hf_parity.py)")
    parity.addoption("--hf-table", metavar="PATH", help="write the table of what came out")
    trainer = parser.getgroup("transformers' Trainer (test_trainer_matrix.py)")
    trainer.addoption("--trainer-table", metavar="PATH", help="write the table into this page")


def pytest_itemcollected(item):
    """Adds the marks that `@pytest.mark.cases(mark=condition)` gives to this case of its test."""
    for marker in item.iter_markers("cases"):
        for mark in marks_of_case(marker.kwargs, item.callspec.params):
            item.add_marker(mark)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("requires a GPU")


@pytest.fixture(autouse=True)
def poisoned_memory_and_seed():
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_thread():
    """For many small calls, which several threads make slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def every_trace(pytestconfig):
    return pytestconfig.getoption("--every-trace")


@pytest.fixture(scope="session")
def smollm2_loaded():
    """SmolLM2 as the command loads it, without a message; loaded once, so no test may change it."""
    from bench.cases import smollm2

    if smollm2.missing():
        pytest.skip(smollm2.missing())
    import gguf

    parsed_once = patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader))  # it would be parsed three times
    with parsed_once, redirect_stderr(io.StringIO()) as said:
        loaded = smollm2.load_causal(
            str(smollm2.folder()), torch.float32, "AutoModelForCausalLM", smollm2.FILE
        )
    assert said.getvalue() == ""
    return loaded
