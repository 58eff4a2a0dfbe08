"""Rows of documents: columns, offsets, a first segment, a limit, coverage; arguments that are no texts."""

import pytest
import torch
from helpers.tiny_bert import save_tiny_bert, save_tiny_xlmr, tiny_text
from helpers.word_tokenizer import word_tokenizer, words

from lckernels.long.tokens import tokenize
from lckernels.tasks.documents import given_texts, read_document

transformers = pytest.importorskip("transformers")

TEXT = tiny_text(9)


@pytest.fixture(scope="module", params=[save_tiny_bert, save_tiny_xlmr])
def tokenizer(request, tmp_path_factory):
    folder = request.param(tmp_path_factory.mktemp("model") / "model")
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_the_row_of_a_text_is_the_tokenizers(tokenizer):
    found = read_document(tokenizer, TEXT, "model", index=3)
    assert found.input_ids.tolist() == tokenizer(TEXT, verbose=False)["input_ids"]
    assert (found.index, found.text, found.coverage) == (3, TEXT, 1.0)
    assert len(found) == len(found.offsets) + 2 and found.leading == 1


def test_a_first_segment_is_before_the_text(tokenizer):
    found = read_document(tokenizer, TEXT, "model", first="river garden?")
    encoding = tokenizer("river garden?", TEXT, verbose=False, return_offsets_mapping=True)
    assert found.input_ids.tolist() == encoding["input_ids"]
    second = [column for column, part in enumerate(encoding.sequence_ids(0)) if part == 1]
    assert list(range(len(found)))[found.columns] == second
    assert found.offsets.tolist() == [list(encoding["offset_mapping"][column]) for column in second]
    types = encoding.get("token_type_ids")
    assert types is None or found.token_type_ids.tolist() == types


@pytest.mark.parametrize("first", [None, "river garden?"])
def test_a_limit_keeps_the_first_tokens_and_the_special_ones(tokenizer, first):
    whole = read_document(tokenizer, TEXT, "model", first=first)
    found = read_document(tokenizer, TEXT, "model", first=first, limit=20)
    trailing = len(whole) - whole.leading - len(whole.offsets)
    assert len(found) == found.leading + 20 + trailing
    kept = whole.input_ids[: whole.leading + 20].tolist() + whole.input_ids[-trailing:].tolist()
    assert found.input_ids.tolist() == kept
    assert torch.equal(found.offsets, whole.offsets[:20])
    read = TEXT[: int(found.offsets[-1, 1])]
    assert found.coverage == pytest.approx(len("".join(read.split())) / len("".join(TEXT.split())))
    same = read_document(tokenizer, TEXT, "model", first=first, limit=len(whole.offsets))
    assert torch.equal(same.input_ids, whole.input_ids) and same.coverage == 1.0


def test_special_tokens_within_a_first_segment_are_text():
    tokenizer = word_tokenizer()
    tokens = tokenize(tokenizer, "w7 w8", "model", first="w5 [SEP] w6")
    assert tokens.input_ids[0].tolist().count(tokenizer.sep_token_id) == 2  # those between and behind
    assert tokenizer.unk_token_id in tokens.input_ids[0, : tokens.leading].tolist()


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (3, TypeError, "text: got int"),
        (b"river", TypeError, "text: got bytes"),
        (["w5", 3], TypeError, r"text\[1\]: got int"),
        (" \n", ValueError, "text: got white space alone"),
        (["w5", ""], ValueError, r"text\[1\]: got an empty text"),
        (
            ["w5", "w6 \udc00"],
            ValueError,
            r"text\[1\]: got a lone surrogate, U\+DC00, at character 3; expected",
        ),
    ],
)
def test_what_is_no_text_raises(texts, error, message):
    with pytest.raises(error, match=message):
        given_texts("text", texts)


def test_a_text_without_a_token_raises(tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(save_tiny_bert(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"text\[2\]: got a text without a token"):
        read_document(tokenizer, "\u200b", "model", index=2, place="text[2]")


def test_one_text_or_several():
    assert given_texts("text", words(3)) == ([words(3)], True)
    assert given_texts("text", (words(3), words(4))) == ([words(3), words(4)], False)
    assert given_texts("text", []) == ([], False)
