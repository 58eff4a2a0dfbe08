"""windowed_attention on random problems, forward and backward, against the reference.

`--random-seed`, `--random-problems` and `--random-problem` choose which (conftest.py).
"""

import pytest
from helpers.backends import is_supported
from helpers.compare_attention import compare_poisoned, compare_problem
from helpers.random_attention import draw_problem, poisoned

pytestmark = [
    pytest.mark.isa,
    pytest.mark.isa_all,
    pytest.mark.triton_all,
    pytest.mark.usefixtures("one_thread"),
]

PER_TEST = 50


def pytest_generate_tests(metafunc):
    """Every test runs over ranges of PER_TEST problems, or over the one of --random-problem."""
    one, count = (metafunc.config.getoption(name) for name in ("--random-problem", "--random-problems"))
    ranges = [range(first, min(first + PER_TEST, count)) for first in range(0, count, PER_TEST)]
    ranges = ranges if one is None else [range(one, one + 1)]
    metafunc.parametrize("problems", ranges, ids=lambda x: f"{x.start}-{x.stop - 1}")


def compare_each(problems: range, seed: int, draw, compare) -> None:
    """Runs `compare` on every supported problem of `draw`; one failure names all that failed."""
    failures, num_compared = [], 0
    for index in problems:
        problem = draw(seed, index)
        if not is_supported(problem):
            continue
        num_compared += 1
        try:
            compare(problem)
        except Exception as error:
            if len(problems) == 1:
                error.add_note(str(problem))
                raise
            again = f"--random-seed {seed} --random-problem {index}"
            failures.append(f"problem {index} ({again}): {type(error).__name__}: {error}")
    assert num_compared, "the backend supports none of the problems"
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


def test_random_problems(problems, pytestconfig):
    compare_each(problems, pytestconfig.getoption("--random-seed"), draw_problem, compare_problem)


def test_inf_and_nan(problems, pytestconfig):
    def draw(seed, index):
        return poisoned(draw_problem(seed, index), seed, index)

    compare_each(problems[::4], pytestconfig.getoption("--random-seed"), draw, compare_poisoned)
