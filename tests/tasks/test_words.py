"""Words as groups of tokens: those of BERT, byte-level and SentencePiece tokens, scripts without spaces."""

import pytest
import torch
from helpers.tiny_bert import LETTERS
from helpers.tiny_decoder import byte_tokenizer

from lckernels.tasks.tagging.words import find_words

transformers = pytest.importorskip("transformers")


def of(text, *pieces):
    """Offsets of the pieces, each looked for behind the one before."""
    offsets, place = [], 0
    for piece in pieces:
        place = text.index(piece, place)
        offsets.append((place, place + len(piece)))
        place += len(piece)
    return torch.tensor(offsets)


def words(text, offsets, whole=True):
    return [text[start:end] for start, end in find_words(text, offsets, whole).chars.tolist()]


@pytest.mark.parametrize(
    "text, pieces, expected",
    [
        ("New York-based", ["New", "Yo", "rk", "-", "bas", "ed"], ["New", "York", "-", "based"]),
        ("New York", ["New", " Yo", "rk"], ["New", "York"]),  # a byte-level token has the space before it
        ("a  b", ["a", " ", " b"], ["a", "b"]),  # white space alone is no word
        ("don't", ["don", "'", "t"], ["don", "'", "t"]),
        ("U.S.", ["U", ".", "S", "."], ["U", ".", "S", "."]),
        ("北京大学", ["北", "京", "大学"], ["北", "京", "大学"]),
        ("iPhone手机", ["i", "Phone", "手", "机"], ["iPhone", "手", "机"]),
        ("カタカナひら", ["カタ", "カナ", "ひら"], ["カタ", "カナ", "ひら"]),
        ("서울시", ["서울", "시"], ["서울시"]),
        ("ไทย", ["ไท", "ย"], ["ไท", "ย"]),
        ("नमस्ते", ["नम", "स्", "ते"], ["नमस्ते"]),  # signs that are no letters
        ("ab\u0301c", ["a", "b", "c"], ["ab\u0301c"]),  # an accent that the tokenizer drops
        ("a。b", ["a", "b"], ["a", "b"]),  # punctuation that the tokenizer drops
    ],
)
def test_tokens_of_one_word(text, pieces, expected):
    assert words(text, of(text, *pieces)) == expected


def test_tokens_as_words():
    assert words("New York", of("New York", "New", "Yo", "rk"), whole=False) == ["New", "Yo", "rk"]


@pytest.mark.parametrize("whole", (True, False))
def test_tokens_of_one_character(whole):
    """Several tokens of bytes make one character; XLM-R's "▁" has the character of the token behind it."""
    text = "中𠀀"
    offsets = torch.tensor([(0, 1), (0, 1), (0, 1), (1, 2), (1, 2), (1, 2), (1, 2)])
    found = find_words(text, offsets, whole)
    assert found.chars.tolist() == [[0, 1], [1, 2]] and found.first.tolist() == [0, 3]


def test_no_words():
    found = find_words(" a ", torch.tensor([(0, 1), (2, 3), (1, 1)]))
    assert len(found) == 0 and len(found.tokens) == 0 and found.chars.shape == (0, 2)


@pytest.mark.parametrize(
    "text", ["hello, world! it's 5 % of x_y", "ab中文cd 𠀀e", "a\u00e9b a+b=c", " tab\there  "]
)
def test_words_of_bert(text):
    """Those of its own word_ids."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *"0123456789.,!'%_+=中文𠀀"]
    pieces += [f"##{piece}" for piece in pieces[5:]]
    tokenizer = transformers.BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    found = find_words(text, torch.tensor(encoding["offset_mapping"]))
    owners = torch.tensor(encoding.word_ids())
    assert found.tokens.tolist() == list(range(len(owners)))
    assert found.first.tolist() == [0, *(owners.diff().nonzero().flatten() + 1).tolist()]


def test_words_of_bytes():
    text = "Zoë 北京!"
    encoding = byte_tokenizer(bos=False)(text, return_offsets_mapping=True)
    assert len(encoding["input_ids"]) == len(text.encode())
    offsets = torch.tensor(encoding["offset_mapping"])
    assert words(text, offsets) == ["Zoë", "北", "京", "!"]
    assert words(text, offsets, whole=False) == ["Z", "o", "ë", "北", "京", "!"]
