"""The tokens of a text that grows are those of the whole text, however it is cut into appends."""

# ruff: noqa: E402, RUF001
import random

import pytest
import torch

transformers = pytest.importorskip("transformers")

import tokenizers
from helpers.tiny_bert import save_tiny_bert, save_tiny_xlmr, tiny_text
from helpers.tiny_decoder import byte_tokenizer
from tokenizers import models, pre_tokenizers, trainers

from lckernels.errors import InputError
from lckernels.long.tokens import tokenize
from lckernels.tasks.classification import growing_text
from lckernels.tasks.classification.growing_text import GrowingText
from lckernels.tasks.spans import coverage

ENGLISH = (
    tiny_text(9)
    + "It's the river's 1234567 windows...   can't  \n\n stop?! e\u0301te\u0301 \U0001f600\U0001f600 "
    "<mask> [SEP] </s> don't\tshadow\x00window ﬁne ½ " + tiny_text(6)
)
CHINESE = 2 * (
    "今天的天气很好，我们去公园散步。他说：“明天还会来！” 球队进球了。"
    "AI模型GPT-4发布了３个版本。\n\n股票上涨了２０％。"
)


def bpe():
    """ByteLevel with GPT-2's expression, merges across all of a word, and an added token of two words."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"])
    tokenizer.train_from_iterator([ENGLISH, CHINESE] * 3, trainer)
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<s>")
    fast.add_tokens(["winter engine", "我们去公园"])
    return fast


@pytest.fixture(scope="module")
def all_tokenizers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    load = transformers.AutoTokenizer.from_pretrained
    return {
        "bert": load(save_tiny_bert(folder / "bert")),
        "xlmr": load(save_tiny_xlmr(folder / "xlmr")),
        "bpe": bpe(),
        "bytes": byte_tokenizer(),
    }


def grow(tokenizer, text, sizes):
    """After each append, the text so far and all its ids."""
    grown, settled, at = GrowingText(tokenizer, "Model"), [], 0
    while at < len(text):
        size = sizes()
        grown = grown.append(text[at : at + size])
        settled += grown.new
        at += size
        yield text[:at], grown, settled + grown.provisional


@pytest.mark.parametrize("text", [ENGLISH, CHINESE], ids=["english", "chinese"])
@pytest.mark.parametrize("name", ["bert", "xlmr", "bpe", "bytes"])
@pytest.mark.parametrize("longest", [1, 12])
def test_tokens_are_those_of_the_whole_text(all_tokenizers, name, text, longest, monkeypatch):
    monkeypatch.setattr(growing_text, "_LONGEST", 40)
    tokenizer, draw = all_tokenizers[name], random.Random(longest)
    for i, (so_far, grown, ids) in enumerate(grow(tokenizer, text, lambda: draw.randint(1, longest))):
        if longest == 1 and i % 20 and len(so_far) < len(text):  # a wrong token stays, once it is settled
            continue
        expected = tokenize(tokenizer, so_far, "Model")
        content = expected.input_ids[0, expected.leading :][: len(expected.offsets)].tolist()
        assert ids == content, so_far[-30:]
        assert grown.num_tokens == len(content)
        assert grown.coverage == pytest.approx(coverage(so_far, expected.offsets), abs=1e-12)
    # The whole text is one word for a tokenizer of bytes without a first step.
    assert len(grown._end) == len(text) if name == "bytes" else len(grown._end) < len(text) - 20


def test_the_end_stays_short(all_tokenizers):
    for _, grown, _ in grow(all_tokenizers["bert"], tiny_text(150), lambda: 50):
        assert len(grown._end) <= growing_text._LONGEST + 200
        assert len(grown.provisional) < 100


def test_an_append_of_nothing_and_of_white_space(all_tokenizers):
    grown = GrowingText(all_tokenizers["bert"], "Model").append("").append(" \n")
    assert (grown.num_tokens, grown.coverage) == (0, 1.0)
    assert grown.append("river").provisional == all_tokenizers["bert"]("river")["input_ids"][1:-1]


def test_a_tokenizer_that_changes_words_before():
    class Fickle:
        """Its first token is the number of words."""

        unk_token_id, all_special_ids = 0, ()

        def get_added_vocab(self):
            return {}

        def __call__(self, text, **options):
            words = text.split()

            class Encoding(dict):
                def word_ids(self, row):
                    return list(range(len(words)))

            offsets = [(2 * i, 2 * i + 1) for i in range(len(words))]
            return Encoding(input_ids=[len(words), *range(1, len(words))], offset_mapping=offsets)

    grown = GrowingText(Fickle(), "Model").append("a b c d e f ")
    assert len(grown.new) == 3  # of six words
    with pytest.raises(
        InputError, match="the tokenizer of Model changed the tokens of text long before the end"
    ):
        grown.append("g")


def test_settled_ids_do_not_depend_on_the_default_device(all_tokenizers):
    with torch.device("meta"):
        (_, grown, ids), *_ = grow(all_tokenizers["bert"], tiny_text(6), lambda: 10**6)
    assert ids == all_tokenizers["bert"](tiny_text(6))["input_ids"][1:-1] and grown.new
