"""The tokenizer of a lengthened model: its limit, warnings of truncated texts, what it saves."""

import copy
import pickle
import warnings

import pytest
import torch
import transformers
from helpers.encoder_models import tiny
from helpers.word_tokenizer import SPECIAL, word_tokenizer, words

import lckernels
from lckernels.long.text_limits import NO_LIMIT

LONG, SHORT = words(70), words(5)


def slow_tokenizer(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIAL, *words(40).split()]))
    return transformers.models.bert.tokenization_bert_legacy.BertTokenizerLegacy(
        str(vocab), model_max_length=32, do_basic_tokenize=False
    )


@pytest.fixture(params=["fast", "slow"])
def tokenizer(request, tmp_path):
    tokenizer = word_tokenizer() if request.param == "fast" else slow_tokenizer(tmp_path)
    assert tokenizer.is_fast == (request.param == "fast")
    lckernels.lengthen(tiny(), tokenizer)
    return tokenizer


def dropped(tokenizer, *texts, **options):
    """The lengths of the rows, and the only warning, which names this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = tokenizer(*texts, **options)["input_ids"]
    assert len(caught) <= 1
    assert all(warning.filename == __file__ for warning in caught)
    rows = rows if isinstance(rows[0], list) else [rows]
    return [len(row) for row in rows], str(caught[0].message) if caught else None


def test_no_text_is_truncated(tokenizer):
    assert dropped(tokenizer, LONG, truncation=True) == ([72], None)
    assert dropped(tokenizer, [LONG, SHORT], truncation=True, padding=True) == ([72, 72], None)
    assert dropped(tokenizer, SHORT, words(60), truncation="only_second") == ([68], None)


def test_truncation_to_a_given_length_is_a_warning(tokenizer):
    lengths, message = dropped(tokenizer, LONG, truncation=True, max_length=30)
    assert lengths == [30]
    assert message == (
        "tokenizer: dropped 42 of 72 tokens, since truncation to max_length=30 was requested; "
        "the lengthened model reads texts of any length"
    )
    lengths, message = dropped(tokenizer, [LONG, SHORT, words(40)], truncation=True, max_length=30)
    assert lengths == [30, 7, 30]
    assert message.startswith("tokenizer: dropped 54 of 121 tokens, in 2 of 3 rows, since")
    lengths, message = dropped(tokenizer, SHORT, LONG, truncation="only_second", max_length=30)
    assert (lengths, message[:40]) == ([30], "tokenizer: dropped 48 of 78 tokens, sinc")


@pytest.mark.parametrize("options", [{}, {"padding": True}, {"padding": "max_length"}])
def test_a_text_that_fits_is_no_warning(tokenizer, options):
    for text in (words(28), SHORT):
        lengths, message = dropped(tokenizer, [text, SHORT], truncation=True, max_length=30, **options)
        assert message is None
        assert max(lengths) <= 30
    assert dropped(tokenizer, LONG, max_length=30, truncation=False)[1] is None


def test_rows_of_the_rest_are_no_warning():
    tokenizer = word_tokenizer()
    lckernels.lengthen(tiny(), tokenizer)
    options = {"truncation": True, "max_length": 30, "return_overflowing_tokens": True}
    lengths, message = dropped(tokenizer, LONG, **options)
    assert (lengths, message) == ([30, 30, 16], None)


def test_two_long_texts_are_one_row():
    """transformers 5.24 returns each window of the first with each of the second; nothing is cut here."""
    other = words(90, 1)
    options = {"truncation": True, "stride": 8, "return_overflowing_tokens": True}
    stock, tokenizer, model = word_tokenizer(), word_tokenizer(), tiny()
    windows = stock(LONG, other, **options)["input_ids"]
    assert len(windows) > 100  # 132; one after the other the texts are 7 windows of 32 tokens
    lckernels.lengthen(model, tokenizer)
    inputs = tokenizer(LONG, other, return_tensors="pt", **options)
    assert inputs["input_ids"].shape == (1, 70 + 90 + 3)
    del inputs["overflow_to_sample_mapping"]
    with pytest.raises(ValueError, match="prefix: got a first segment of 72 tokens in row 0; a chunk of 32"):
        model(**inputs)


def test_tensors_and_encode(tokenizer):
    with pytest.warns(UserWarning, match="tokenizer: dropped 42 of 72 tokens"):
        rows = tokenizer([LONG], truncation=True, max_length=30, return_tensors="pt")["input_ids"]
    assert rows.shape == (1, 30)
    with pytest.warns(UserWarning, match="tokenizer: dropped 42 of 72 tokens"):
        ids = tokenizer.encode(LONG, truncation=True, max_length=30)
    assert ids == rows[0].tolist()


def test_padding_to_no_length(tokenizer):
    message = "padding: got 'max_length' without max_length; the tokenizer of a lengthened model has no limit"
    with pytest.raises(ValueError, match=message):
        tokenizer(SHORT, padding="max_length", truncation=True)
    with pytest.raises(ValueError, match=message):
        tokenizer.pad({"input_ids": [[3, 4]]}, padding="max_length")
    assert len(tokenizer(SHORT, padding="max_length", max_length=40)["input_ids"]) == 40


def test_afterwards_the_tokenizer_is_as_before():
    tokenizer, model, other = word_tokenizer(), tiny(), tiny()
    before = dict(tokenizer.__dict__)
    lckernels.lengthen(model, tokenizer)
    lckernels.lengthen(other, tokenizer)
    lckernels.unlengthen(model)
    assert tokenizer.model_max_length == NO_LIMIT
    lckernels.unlengthen(other)
    assert dict(tokenizer.__dict__) == before
    assert dropped(tokenizer, LONG, truncation=True) == ([32], None)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_no_limit_either(tokenizer, copied):
    other = copied(tokenizer)
    assert dropped(other, LONG, truncation=True) == ([72], None)
    assert dropped(other, LONG, truncation=True, max_length=30)[1].startswith("tokenizer: dropped 42")
    assert other.save_pretrained.__self__.tokenizer is other


@pytest.mark.parametrize("called", [{}, {"truncation": True}, {"truncation": True, "padding": True}])
def test_saved_files_are_those_of_before(tmp_path, called):
    tokenizer, model = word_tokenizer(), tiny()
    tokenizer([LONG, SHORT], **called)
    tokenizer.save_pretrained(tmp_path / "before")
    lckernels.lengthen(model, tokenizer)
    rows = tokenizer([LONG, SHORT], **called)["input_ids"]
    tokenizer.save_pretrained(tmp_path / "after")
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes()
    assert tokenizer([LONG, SHORT], **called)["input_ids"] == rows


def test_the_length_of_a_chunk_is_not_the_raised_limit():
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    models = [transformers.T5EncoderModel(transformers.T5Config(**sizes)) for _ in range(2)]
    tokenizer = word_tokenizer(40)
    for model in models:
        report = lckernels.lengthen(model, tokenizer)
        assert (report.chunk_len, report.chunk_len_from) == (40, "the tokenizer's model_max_length")
