"""Wrappers of other libraries around the forward of a lengthened encoder, and `unlengthen` beneath them."""

import pytest
import torch
from helpers.encoder_models import token_ids
from helpers.head_models import head_model

import lckernels
from lckernels.inner_forward import INNER

accelerate = pytest.importorskip("accelerate")


@pytest.fixture
def tagger():
    return head_model("bert", "TokenClassification").float()


def logits(model, length):
    with torch.no_grad():
        return model(token_ids(length)[None]).logits


@pytest.mark.parametrize("patched", [False, True])
def test_hooks_of_accelerate_are_kept(tagger, patched):
    before = dict(tagger.bert.__dict__)
    expected = logits(tagger, 20)
    lckernels.lengthen(tagger)
    of_long = logits(tagger, 70)
    accelerate.hooks.add_hook_to_module(tagger.bert, accelerate.hooks.ModelHook())
    assert torch.equal(logits(tagger, 70), of_long)
    if patched:
        lckernels.patch(tagger)
    lckernels.unlengthen(tagger)
    assert INNER not in tagger.bert.__dict__
    torch.testing.assert_close(logits(tagger, 20), expected)
    with pytest.raises((RuntimeError, IndexError)):
        logits(tagger, 70)
    lckernels.lengthen(tagger)
    torch.testing.assert_close(logits(tagger, 70), of_long)
    lckernels.unlengthen(tagger)
    if patched:
        lckernels.unpatch(tagger)
    assert "_hf_hook" in tagger.bert.__dict__
    accelerate.hooks.remove_hook_from_module(tagger.bert)
    assert torch.equal(logits(tagger, 20), expected)
    assert dict(tagger.bert.__dict__).keys() <= before.keys() | {"forward"}
    with pytest.raises((RuntimeError, IndexError)):
        logits(tagger, 70)


def test_mixed_precision_of_accelerate(tagger, request):
    # A process has one state of accelerate; a Trainer of another test may have set it.
    reset = accelerate.state.AcceleratorState._reset_state
    reset(reset_partial_state=True)
    request.addfinalizer(lambda: reset(reset_partial_state=True))
    bert = tagger.bert
    lckernels.lengthen(bert)
    ours = bert.forward
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(bert)
    assert prepared is bert and bert.forward is not ours
    message = "model: got BertModel, whose forward was replaced after lckernels.lengthen; undo that first"
    with pytest.raises(ValueError, match=message):
        lckernels.unlengthen(prepared)
    assert prepared(token_ids(70)[None]).last_hidden_state.shape == (1, 70, 16)
    bert.forward = ours
    lckernels.unlengthen(bert)
    with pytest.raises((RuntimeError, IndexError)):
        bert(token_ids(70)[None])
