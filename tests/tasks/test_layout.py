"""Paragraphs and list items of a text, in English and in Chinese."""

# ruff: noqa: RUF001

import pytest

from lckernels.tasks.rewriting.layout import find_units, flat, separator, space_between

WRAPPED = (
    "It was a bright cold day in April, and the clocks were\n"
    "striking thirteen. He slipped quickly through the glass\n"
    "doors of the house.\n"
    "  An indented line.\n"
)
POEM = "The sea is calm tonight,\nThe tide is full, the moon lies fair upon the straits;\nOn the coast\n"
WRAPPED_CHINESE = (
    "今天天气很好我们去公园散步看见了很多人在那里跳舞\n唱歌非常热闹大家都很高兴。然后我们回家吃饭。\n"
)


def units(text, **options):
    return [text[unit.start : unit.end] for unit in find_units(text, **options)]


@pytest.mark.parametrize(
    "text, found",
    {
        "Title\n=====\n\n  First. Second.\n\n\nThird.": ["Title", "First. Second.", "Third."],
        "- one\n  * two\n1. three\n(a) four\n## five\n> six\n": [
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
        ],
        "> - one\n> 2) two\n": ["one", "two"],
        "　　甲。乙。\n一、丙\n（二）丁\n3、戊\n①己\n4.庚\n": ["甲。乙。", "丙", "丁", "戊", "己", "庚"],
        "3.14 is pi.\n1984 was long.\n-5 degrees\n": ["3.14 is pi.", "1984 was long.", "-5 degrees"],
        "***\n12\n| 3 |\n": [],
        "One.\r\n\r\n\tTwo.\u2028Three.": ["One.", "Two.", "Three."],
        "a)": ["a)"],
    }.items(),
)
def test_units(text, found):
    assert units(text) == found


def test_a_wrapped_paragraph_is_one_unit():
    first, second = units(WRAPPED)
    assert first.startswith("It was") and first.endswith("house.") and second == "An indented line."
    assert units(WRAPPED_CHINESE) == [WRAPPED_CHINESE.strip()]
    assert len(units(WRAPPED, wrapped=False)) == 4


def test_lines_that_are_not_full_are_units():
    assert units(POEM) == POEM.splitlines()
    assert units(POEM, wrapped=True) == [POEM.strip()]


def test_a_list_item_continues_on_an_indented_line():
    text = "- a first item whose text is so long that it is\n  continued here\n- a second item\n"
    assert units(text) == ["a first item whose text is so long that it is\n  continued here", "a second item"]


def test_flat():
    assert flat("a b \n\t c\r\nd") == "a b c d"
    assert flat("天气\n　　很好，\nfine") == "天气很好，fine"


@pytest.mark.parametrize(
    "left, right, between", [("a.", "B", " "), ("好。", "B", ""), ("a", "好", ""), ("", "B", "")]
)
def test_space_between(left, right, between):
    assert space_between(left, right) == between


@pytest.mark.parametrize(
    "text, at, written, between",
    [
        ("One.  Two.", (4, 6), ("a", "b"), "  "),
        ("One.\n   Two.", (4, 8), ("a", "b"), " "),
        ("One.Two.", (4, 4), ("a", "b"), ""),
        ("One. Two.", (4, 5), ("甲。", "乙。"), ""),
        ("甲。乙。", (2, 2), ("a.", "b."), " "),
        ("甲。乙。", (2, 2), ("甲。", "乙。"), ""),
        ("One. Two.", (4, 5), ("", "b"), ""),
    ],
)
def test_separator(text, at, written, between):
    assert separator(text, (0, at[0]), (at[1], len(text)), written) == between


def test_long_runs_of_spaces():
    """Time that grows with the square of the spaces would be minutes here."""
    gap = " " * 200_000
    assert flat(f"one{gap}two \n\t\r\n three\u2028中\n文 ") == f"one{gap}two three中文"
    assert separator(f"one{gap}two", (0, 3), (200_003, 200_006), ("eins", "zwei")) == gap
    assert flat(" \n ") == ""
