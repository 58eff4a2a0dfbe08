"""torch.compile, torch.export and torch.jit.trace of a lengthened model."""

import copy

import pytest
import torch
import transformers
from helpers.encoder_models import SIZES, WIDE, pad, token_ids
from torch._dynamo.utils import counters

import lckernels

SIZE = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2, "num_labels": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IDS, MASK = pad([token_ids(100), token_ids(50)], "right")
SHORT = {"input_ids": IDS[:1, :20], "attention_mask": MASK[:1, :20]}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def classifier(lengthened=True):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, **NO_DROPOUT)).eval()
    if lengthened:
        lckernels.lengthen(model)
    return model


def logits(model, input_ids=IDS, attention_mask=MASK):
    with torch.no_grad():
        return model(input_ids=input_ids, attention_mask=attention_mask).logits


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_rows_of_one_chunk_are_one_graph():
    model = classifier()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(logits(compiled, **SHORT), logits(model, **SHORT), **CLOSE)
    assert counters["stats"]["unique_graphs"] == 1


def test_long_rows_of_any_length():
    """Chunks are planned outside of graphs: neither a graph per length nor one per function."""
    model = classifier()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(logits(compiled), logits(model), **CLOSE)
    for length in (90, 80, 70, 60, 40):
        ids = token_ids(length)[None]
        torch.testing.assert_close(logits(compiled, ids, None), logits(model, ids, None), **CLOSE)
    assert counters["stats"]["unique_graphs"] <= 4
    torch.testing.assert_close(logits(compiled, **SHORT), logits(model, **SHORT), **CLOSE)


def test_gradients():
    model, labels = classifier().train(), torch.tensor([0, 2])
    other = copy.deepcopy(model)
    compiled = torch.compile(other, backend="aot_eager")
    losses = [m(input_ids=IDS, attention_mask=MASK, labels=labels).loss for m in (model, compiled)]
    torch.testing.assert_close(*losses, **CLOSE)
    for loss in losses:
        loss.backward()
    for ours, plain in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, **CLOSE)


@pytest.mark.parametrize("first", ["compile", "lengthen"])
def test_compiled_layers_read_the_chunks(first):
    expected, model, runs = logits(classifier()), classifier(first == "lengthen"), []

    def backend(graph, inputs):
        def run(*args):
            runs.append(1)
            return graph(*args)

        return run

    for layer in model.bert.encoder.layer:
        layer.compile(backend=backend)
    if first == "compile":
        lckernels.lengthen(model)
    torch.testing.assert_close(logits(model), expected, **CLOSE)
    assert len(runs) >= 2
    lckernels.unlengthen(model)


@pytest.mark.parametrize("compiled", ["in place", "as a module"])
def test_unlengthen_a_compiled_model(compiled):
    model = classifier()
    wrapped = torch.compile(model, backend="eager")
    if compiled == "in place":
        model.compile(backend="eager")
        wrapped = model
    long, short = logits(wrapped), logits(wrapped, **SHORT)
    lckernels.unlengthen(wrapped)
    assert "forward" not in model.bert.__dict__
    torch.testing.assert_close(logits(wrapped, **SHORT), short, **CLOSE)
    with pytest.raises(Exception, match=r"index out of range|expand"):
        logits(wrapped)
    with pytest.raises(TypeError, match="compiled; lengthen the model, then compile it"):
        lckernels.lengthen(wrapped)
    assert long.shape == (2, 3)


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_rows_of_one_chunk(strict):
    model = classifier()
    length = torch.export.Dim("length", min=2, max=32)
    shapes = {key: {1: length} for key in SHORT}
    program = torch.export.export(model, (), SHORT, dynamic_shapes=shapes, strict=strict).module()
    for width in (32, 7):
        inputs = {"input_ids": IDS[:1, :width], "attention_mask": MASK[:1, :width]}
        torch.testing.assert_close(program(**inputs).logits, logits(model, **inputs), **CLOSE)


@pytest.mark.filterwarnings("ignore")  # of torch.jit.trace, which is deprecated
def test_long_rows_are_not_exported():
    model, inputs = classifier(), {"input_ids": IDS, "attention_mask": MASK}
    message = r"a row longer than a chunk in torch.export or torch.jit.trace; expected at most 32 tokens"
    with pytest.raises(ValueError, match=message):
        torch.export.export(model, (), inputs, strict=False)
    with pytest.raises(Exception, match="lckernels plans the chunks of a row on the host"):
        torch.export.export(model, (), inputs, strict=True)
    model.config.return_dict = False
    with pytest.raises(ValueError, match=message):
        torch.jit.trace(model, (IDS, MASK), strict=False)
