"""The report of `lengthen`, as docs/lengthen.md prints it."""

import re
from pathlib import Path

import pytest
from helpers.tiny_bert import save_tiny_bert

import lckernels

transformers = pytest.importorskip("transformers")

PAGE = Path(__file__).parents[2] / "docs" / "lengthen.md"


@pytest.fixture
def model_and_tokenizer(tmp_path):
    path = save_tiny_bert(tmp_path / "model", positions=512)
    model = transformers.BertForTokenClassification(transformers.BertConfig.from_pretrained(path)).eval()
    return model, transformers.AutoTokenizer.from_pretrained(path, model_max_length=512)


def test_the_page_has_this_report(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    printed = re.search(r"```text\n(BertFor.*?)\n```", PAGE.read_text(), re.S)[1]
    report = str(lckernels.lengthen(model, tokenizer, overlap=128))
    assert report == printed.replace("(id 102)", f"(id {tokenizer.sep_token_id})")
    named = set(re.findall(r"^\| `(\w+)` \| [^|]*\|$", PAGE.read_text(), re.M))
    assert named >= {line.split()[0] for line in report.split("\n")[1:]}


def test_one_given_token_and_the_first_summary(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    report = lckernels.lengthen(model, tokenizer, prefix=[7], summary="first")
    assert report.prefix == "1 given token"
    assert report.summary == "leading tokens such as [CLS] have their states in the first chunk"
