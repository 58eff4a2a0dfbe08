"""Labels of a lengthened model: its head's loss is transformers' own."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import pad, token_ids
from helpers.head_models import head_model

import lckernels

pytestmark = pytest.mark.hf

IDS, MASK = pad([token_ids(100), token_ids(33)], "right")
LABELS = (IDS % 3).masked_fill(MASK == 0, -100)


def model_of(head, recompute):
    model = head_model("bert", head).train()
    lckernels.lengthen(model, max_tokens=32, recompute=recompute)
    return model


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("head", ["TokenClassification", "SequenceClassification"])
def test_all_labels_ignored(head, recompute):
    """The mean of no losses is NaN, in a model that is not lengthened too; all gradients are zero."""
    labels = torch.full_like(LABELS, -100) if head == "TokenClassification" else torch.tensor([-100, -100])
    plain = head_model("bert", head).train()
    rows = (slice(None), slice(24)) if head == "TokenClassification" else slice(None)
    short = plain(input_ids=IDS[:, :24], attention_mask=MASK[:, :24], labels=labels[rows].contiguous())
    model = model_of(head, recompute)
    loss = model(input_ids=IDS, attention_mask=MASK, labels=labels).loss
    assert loss.isnan() and short.loss.isnan()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and not any(x.any() for x in gradients)


@pytest.mark.parametrize("recompute", [False, True])
def test_labels_of_another_length(recompute):
    model = model_of("TokenClassification", recompute)
    with pytest.raises(ValueError, match=r"input batch_size \(200\) to match target batch_size \(180\)"):
        model(input_ids=IDS, attention_mask=MASK, labels=LABELS[:, :90].contiguous())


@pytest.mark.parametrize("recompute", [False, True])
def test_an_empty_document(recompute):
    mask = MASK.clone()
    mask[1] = 0
    message = "attention_mask: got row 1 with padding only, an empty sequence"
    with pytest.raises(ValueError, match=message):
        model_of("TokenClassification", recompute)(input_ids=IDS, attention_mask=mask, labels=LABELS)


def test_labels_on_padding_are_scored():
    """By transformers' head: padding has a label of -100, as its collator sets it."""
    model = model_of("TokenClassification", False).eval()
    with torch.no_grad():
        loss, other = (
            model(input_ids=IDS, attention_mask=MASK, labels=labels).loss for labels in (LABELS, IDS % 3)
        )
    assert loss != other


def test_sizes_are_not_saved(tmp_path):
    """A run is resumed with the sizes of its own `lengthen`."""
    model = model_of("TokenClassification", False).eval()
    model.save_pretrained(tmp_path)
    other = type(model).from_pretrained(tmp_path)
    lckernels.unlengthen(model)
    lckernels.lengthen(model, chunk_len=20, overlap=4)
    lckernels.lengthen(other, chunk_len=20, overlap=4)
    with torch.no_grad():
        got, expected = (x(input_ids=IDS, attention_mask=MASK, labels=LABELS).loss for x in (other, model))
    assert got == expected
