"""Groups of whole sentences: their ends, context, cuts. A token is a word or a Chinese character."""

# ruff: noqa: RUF001

import re

import pytest

from lckernels.tasks.rewriting.layout import find_units, flat
from lckernels.tasks.rewriting.sentence_groups import group_sentences


def encode(texts):
    return [[ord(token[0]) for token in re.findall(r"[A-Za-z0-9.'\"!?-]+|\S", text)] for text in texts]


def groups(text, room=100, **options):
    return group_sentences(text, find_units(text), encode, room, **options)


def sources(text, *args, **options):
    return [group.source for group in groups(text, *args, **options)]


# What spaCy's sentencizer (3.8.18) and langchain-text-splitters (1.1.3) return for these texts differs:
# one sentence of the first, a decimal point as an end, quotation marks and full stops in the next sentence.
@pytest.mark.parametrize(
    "text, found",
    [
        ("今天很好。明天见！你来吗？", ["今天很好。", "明天见！", "你来吗？"]),
        ("圆周率约为3.14。很好。", ["圆周率约为3.14。", "很好。"]),
        ("他走了。“好。”她说。", ["他走了。", "“好。”", "她说。"]),
        ('He left. "Stop!" he said.', ["He left.", '"Stop!" he said.']),
        (
            "今天天气很好。我们去公园。晚上下雨了。明天再说。",
            ["今天天气很好。", "我们去公园。", "晚上下雨了。", "明天再说。"],
        ),
        (
            "One two three. Four five six. Seven eight nine. Ten eleven twelve.",
            ["One two three.", "Four five six.", "Seven eight nine.", "Ten eleven twelve."],
        ),
    ],
)
@pytest.mark.parametrize("language", ["en", "zh"])
def test_where_sentences_end(text, found, language):
    assert sources(text, language=language) == found


# chonkie's SentenceChunker (1.7.0) makes one chunk of each of these texts, whatever its chunk_size.
@pytest.mark.parametrize(
    "text, room, largest",
    [("I ran. He sat. We ate. " * 200, 30, 30), ("今天天气很好，我们去公园散步。" * 200, 100, 90)],
)
def test_short_sentences_fill_groups_of_at_most_the_room(text, room, largest):
    found = groups(text, room, sentences_per_group=None)
    assert {len(group.ids) for group in found[:-1]} == {largest}
    assert flat(text) in ("".join(group.source for group in found), " ".join(group.source for group in found))
    assert not any(group.is_cut for group in found)


def test_a_group_is_within_a_paragraph():
    text = "One. Two. Three.\n\n- Four. Five.\n- Six.\n"
    assert sources(text, sentences_per_group=2) == ["One. Two.", "Three.", "Four. Five.", "Six."]
    found = groups(text, sentences_per_group=None)
    assert [text[group.start : group.end] for group in found] == ["One. Two. Three.", "Four. Five.", "Six."]
    assert [(group.unit, group.num_sentences) for group in found] == [(0, 3), (1, 2), (2, 1)]


def test_context_is_the_sentences_before_a_group():
    text = "One day. Two small cats.\n\nThree. Four dogs with long ears."
    one, two, three = encode(["One day.", "Two small cats.", "Three."])
    found = groups(text, context_sentences=2)
    assert [group.context for group in found] == [[], one, one + two, two + three]
    tight = groups(text, room=6, context_sentences=2)  # the nearest ones that fit
    assert [group.context for group in tight] == [[], one, one + two, three]


def test_a_longer_sentence_is_cut_at_punctuation_then_between_words():
    text = "Short. Ab bb cb, db eb fb; gb hb ib jb kb lb mb nb, oops. Short."
    found = groups(text, room=6)
    parts = ["Ab bb cb,", "db eb fb;", "gb hb ib jb kb lb", "mb nb,", "oops."]
    assert [group.source for group in found] == ["Short.", *parts, "Short."]
    assert [group.is_cut for group in found] == [False, *[True] * 5, False]


def test_a_longer_chinese_sentence():
    text = "天" * 5 + "，" + "地" * 20 + "。"
    found = groups(text, room=9)
    assert "".join(group.source for group in found) == text
    assert max(len(group.ids) for group in found) <= 9 and found[0].source == "天天天天天，"


def test_no_accent_is_apart_from_its_letter():
    text = "e\u0301" * 40
    found = group_sentences(text, find_units(text), lambda texts: [[1] * len(x) for x in texts], 9)
    assert "".join(group.source for group in found) == text and len(found) > 8
    assert all(group.source.startswith("e") and len(group.ids) <= 9 for group in found)
