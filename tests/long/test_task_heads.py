"""A LongEncoder in the place of a task model's encoder: the recipes of docs/long_encoder.md."""

import pytest
import torch
import transformers
from helpers.encoder_models import FAMILIES, SIZES, pad, token_ids

import lckernels


class LongBert(lckernels.LongEncoder):
    """A LongEncoder with BERT's pooler, which reads the first chunk's [CLS]."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs | {"return_dict": True})
        output.pooler_output = self.model.pooler(output.last_hidden_state)
        return output


def task_model(kind, family="bert", num_labels=3):
    torch.manual_seed(0)
    config_class, sizes = FAMILIES[family]
    config = config_class(**SIZES, **sizes, initializer_range=0.2, num_labels=num_labels)
    return getattr(transformers, kind).from_config(config).eval()


def test_sequence_classification_of_bert():
    model = task_model("AutoModelForSequenceClassification")
    short, mask = pad([token_ids(30), token_ids(9)], "right")
    with torch.no_grad():
        expected = model(input_ids=short, attention_mask=mask).logits
        model.bert = LongBert(model.bert, 24, 8)
        long, long_mask = pad([token_ids(100), token_ids(9)], "right")
        logits = model(input_ids=long, attention_mask=long_mask).logits
        torch.testing.assert_close(logits[1], expected[1], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits[0], expected[0], atol=1e-2)
    model.train()
    model(input_ids=long, attention_mask=long_mask, labels=torch.tensor([0, 2])).loss.backward()
    encoder = model.bert.model
    assert encoder.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert encoder.pooler.dense.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "family", "num_labels", "shape"),
    [
        ("AutoModelForTokenClassification", "bert", 3, (1, 100, 3)),
        ("AutoModelForQuestionAnswering", "bert", 2, (1, 100)),
        ("AutoModelForSequenceClassification", "roberta", 3, (1, 3)),
    ],
)
def test_heads_that_read_hidden_states_alone(kind, family, num_labels, shape):
    model, name = task_model(kind, family, num_labels), family
    ids, mask = pad([token_ids(30), token_ids(9)], "right")
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask)[0]
        setattr(model, name, lckernels.LongEncoder(getattr(model, name)))
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask)[0][:, :9], expected[:, :9])
        ids, mask = pad([token_ids(100)], "right")
        assert model(input_ids=ids, attention_mask=mask)[0].shape == shape


def test_the_encoder_goes_back_before_saving(tmp_path):
    model = task_model("AutoModelForSequenceClassification")
    names = set(model.state_dict())
    model.bert = LongBert(model.bert, 24, 8)
    model.bert = model.bert.model
    assert set(model.state_dict()) == names
