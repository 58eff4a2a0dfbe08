"""What makes an output suspicious."""

import pytest

from lckernels.tasks.rewriting.rewritten import Output, Part, Rewritten, least_ratio, problem


@pytest.mark.parametrize(
    "text, num_tokens, is_cut_off, source, found",
    [
        ("", 0, False, (5, 1), "no output"),
        ("a b c", 3, True, (5, 1), "stopped after 3 tokens, before an end"),
        ("a", 1, False, (10, 1), ""),  # 4 = 0.4 * 10, and three tokens are allowed
        ("a", 1, False, (11, 1), "tokens: 1 for 11"),
        ("One. Two. Three.", 6, False, (6, 3), ""),
        ("One. Two.", 6, False, (6, 3), "sentences: 2 for 3"),
        ("一。二。", 4, False, (6, 2), ""),
        ("One and two.", 6, False, (6, 2), "sentences: 1 for 2"),
    ],
)
def test_problem(text, num_tokens, is_cut_off, source, found):
    assert problem(Output(text, num_tokens, is_cut_off), *source, 0.4) == found


def test_least_ratio():
    assert least_ratio([]) == 0.4
    assert (
        least_ratio([(10, 20), (10, 30), (10, 10), (2, 100)]) == 1.0
    )  # half the median; short sources are left out
    assert least_ratio([(10, 5)]) == 0.4


def test_lists_of_parts():
    parts = [Part(0, 1, "a", "x"), Part(1, 2, "b", "", "no output"), Part(2, 3, "c", "z", is_cut=True)]
    found = Rewritten("x z", parts, 1.0, 3)
    assert (found.missing, found.cut) == ([parts[1]], [parts[2]])
