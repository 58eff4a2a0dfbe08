"""`lengthen` in place: short rows as before, long rows as LongEncoder; and how it is undone."""

import copy
import pickle

import pytest
import torch
from helpers.encoder_models import SIZES, WIDE, pad, token_ids

import lckernels
from lckernels.inner_forward import INNER

transformers = pytest.importorskip("transformers")

CONFIG = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    config = transformers.BertConfig(**CONFIG, num_labels=3)
    return transformers.BertForSequenceClassification(config).eval()


def logits(model, *lengths):
    ids, mask = pad([token_ids(length) for length in lengths], "right")
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def test_a_short_row_is_unchanged_to_the_bit(classifier):
    expected = logits(classifier, 32, 7)
    lckernels.lengthen(classifier)
    assert torch.equal(logits(classifier, 32, 7), expected)


def test_a_long_row_has_the_merged_states(classifier):
    bert = classifier.bert
    encoder = lckernels.LongEncoder(bert, summary="mean")
    ids, mask = pad([token_ids(100), token_ids(50)], "right")
    with torch.no_grad():
        states = encoder(ids, mask).last_hidden_state
        expected = classifier.classifier(bert.pooler(states))
    lckernels.lengthen(classifier)
    assert torch.equal(logits(classifier, 100, 50), expected)
    assert torch.equal(bert(ids, mask).last_hidden_state, states)


def test_nothing_else_of_the_model_changes(classifier, tmp_path):
    def facts(model):
        names = [name for name, _ in model.named_modules()]
        return names, list(model.state_dict()), model.config.to_json_string(), repr(model)

    classifier.save_pretrained(tmp_path / "before")  # which completes the config
    expected = facts(classifier)
    lckernels.lengthen(classifier)
    assert facts(classifier) == expected
    classifier.save_pretrained(tmp_path / "after")
    files = sorted(path.name for path in (tmp_path / "before").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "after").iterdir())
    for name in files:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


def test_unlengthen_restores(classifier):
    before = dict(classifier.bert.__dict__)
    lckernels.lengthen(classifier)
    assert INNER in classifier.bert.__dict__
    lckernels.unlengthen(classifier)
    assert dict(classifier.bert.__dict__) == before
    with lckernels.lengthened(classifier) as report:
        assert report.chunk_len == 32
        logits(classifier, 100)
    assert dict(classifier.bert.__dict__) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_lengthened_by_itself(classifier, copied):
    lckernels.lengthen(classifier)
    expected = logits(classifier, 100)
    other = copied(classifier)
    with torch.no_grad():
        other.classifier.bias += 1
    torch.testing.assert_close(logits(other, 100), expected + 1)
    assert torch.equal(logits(classifier, 100), expected)
    assert other.bert.forward.encoder.model is other.bert
    lckernels.unlengthen(other)
    assert torch.equal(logits(classifier, 100), expected)
    with pytest.raises((RuntimeError, IndexError)):
        logits(other, 100)


@pytest.mark.parametrize("first", ["patch", "lengthen"])
@pytest.mark.parametrize("undone", ["patch", "lengthen"])
def test_patch_and_lengthen_in_any_order(classifier, first, undone):
    before = dict(classifier.bert.__dict__)
    lckernels.lengthen(classifier)
    expected = logits(classifier, 100)
    lckernels.unlengthen(classifier)
    calls = {"patch": lckernels.patch, "lengthen": lckernels.lengthen}
    undo = {"patch": lckernels.unpatch, "lengthen": lckernels.unlengthen}
    other = {"patch": "lengthen", "lengthen": "patch"}
    calls[first](classifier)
    calls[other[first]](classifier)
    torch.testing.assert_close(logits(classifier, 100), expected)
    undo[undone](classifier)
    if undone == "patch":
        assert torch.equal(logits(classifier, 100), expected)
    undo[other[undone]](classifier)
    assert dict(classifier.bert.__dict__) == before


def test_lengthened_twice_and_not_at_all(classifier):
    with pytest.raises(ValueError, match="model: got BertForSequenceClassification, not lengthened"):
        lckernels.unlengthen(classifier)
    lckernels.lengthen(classifier)
    with pytest.raises(ValueError, match="model: got BertForSequenceClassification, lengthened already"):
        lckernels.lengthen(classifier)
