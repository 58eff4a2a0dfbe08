"""Sentence boundaries in characters, and their conversion to tokens."""

# ruff: noqa: RUF001
import sys
from itertools import pairwise

import pytest
import torch

from lckernels.sentences import sentence_boundaries, token_boundaries

ENGLISH = (
    'Mr. Smith came on 3 Jan. at noon, i.e. late.\n"Why?" he asked. It was 3.5 km!\n\n  \n\n'
    "A new day\nbegan. Yes."
)
CHINESE = "今天天气很好。我们去公园吧！他说：“走！”她说：“不走。”然后走了。\n\n第二天，他们又见面了？是的。"


@pytest.mark.parametrize("language", ["klingon", "", "EN", "en-US", None])
def test_a_language_that_is_no_code(language):
    with pytest.raises(ValueError, match=r"^language: got .*; expected an ISO 639 code"):
        sentence_boundaries(ENGLISH, language)


def sentences(text, language):
    cuts = [0, *sentence_boundaries(text, language), len(text)]
    return [text[a:b].strip() for a, b in pairwise(cuts)]


def test_english():
    pytest.importorskip("sentencex")
    assert sentences(ENGLISH, "en") == [
        "Mr. Smith came on 3 Jan. at noon, i.e. late.",
        '"Why?" he asked.',
        "It was 3.5 km!",
        "A new day\nbegan.",
        "Yes.",
    ]


def test_chinese():
    pytest.importorskip("sentencex")
    assert sentences(CHINESE, "zh") == [
        "今天天气很好。",
        "我们去公园吧！",
        "他说：“走！”",
        "她说：“不走。”",
        "然后走了。",
        "第二天，他们又见面了？",
        "是的。",
    ]


@pytest.mark.parametrize("text", ["", "   \n\n ", "One sentence.", "\n\n\nOne sentence.\n\n"])
def test_texts_of_at_most_one_sentence(text):
    pytest.importorskip("sentencex")
    assert sentence_boundaries(text) == []


def test_offsets_count_characters_not_bytes():
    pytest.importorskip("sentencex")
    text = "Hé 😀 there. 好 \ud800 here. Next one.\r\n\r\nLast 😀."
    assert sentences(text, "en") == ["Hé 😀 there.", "好 \ud800 here.", "Next one.", "Last 😀."]


@pytest.mark.parametrize("paragraphs", [True, False])
def test_two_megabytes_keep_every_sentence(paragraphs):
    pytest.importorskip("sentencex")
    line = "The quick brown fox jumped over Mr. Smith. "
    end = "\n\n" if paragraphs else ""
    text = (5 * line + end) * 9000
    starts = [
        paragraph * (5 * len(line) + len(end)) + i * len(line) for paragraph in range(9000) for i in range(5)
    ]
    assert sentence_boundaries(text) == starts[1:]


def test_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencex", None)
    with pytest.raises(ImportError, match=r"this needs sentencex, .* pip install 'lckernels\[hf\]'"):
        sentence_boundaries("One. Two.")


def test_tokens_that_begin_at_characters():
    # "ab cd. Ef gh" with [CLS] before, [SEP] and padding behind; "▁Ef" begins with the space before it.
    mapping = [(0, 0), (0, 2), (3, 5), (5, 6), (6, 9), (10, 12), (0, 0), (0, 0)]
    assert token_boundaries(mapping, [7]) == [4]
    assert token_boundaries(torch.tensor(mapping), torch.tensor([3, 7, 8, 10])) == [2, 4, 5]
    # With the padding on the left the same tokens are two columns further right.
    left = [(0, 0), (0, 0), *mapping[:-2], (0, 0)]
    assert token_boundaries(left, [7]) == [6]
    # Neither the first token nor a position after the last one is a boundary.
    assert token_boundaries(mapping, [0, 1, 12, 40]) == []
    assert token_boundaries(mapping, []) == []
    assert token_boundaries([], [3]) == []


def test_offset_mapping_of_a_batch_raises():
    with pytest.raises(
        ValueError, match=r"offset_mapping: got shape \(1, 3, 2\); expected \(num_tokens, 2\)"
    ):
        token_boundaries(torch.zeros(1, 3, 2, dtype=torch.long), [1])


def test_boundaries_of_a_fast_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    pytest.importorskip("sentencex")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    for text, language in ((ENGLISH, "en"), (CHINESE, "zh")):
        mapping = tokenizer.encode(text).offsets
        starts = [
            mapping[token][0] for token in token_boundaries(mapping, sentence_boundaries(text, language))
        ]
        expected = [text.index(sentence.split()[0]) for sentence in sentences(text, language)[1:]]
        assert starts == expected
