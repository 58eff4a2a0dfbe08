"""A lengthened model with copies, dtypes, autocast, hooks, threads, checkpointing and offloading."""

# ruff: noqa: E402
import copy
import io
import pickle
import threading

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.compare import assert_as_good_as
from helpers.encoder_models import SIZES, WIDE, pad, token_ids

import lckernels

SIZE = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2, "num_labels": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IDS, MASK = pad([token_ids(100), token_ids(50)], "right")
LABELS = torch.tensor([0, 2])
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def classifier(lengthened=True, **options):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, **NO_DROPOUT)).eval()
    if lengthened:
        lckernels.lengthen(model, **options)
    return model


def logits(model, ids=IDS, mask=MASK):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits


def gradients(model):
    model.zero_grad()
    model(input_ids=IDS, attention_mask=MASK, labels=LABELS).loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("last", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), saved])
@pytest.mark.parametrize("first", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x)), saved])
def test_a_copy_of_a_copy(first, last):
    model = classifier()
    expected = logits(model)
    other = last(first(model))
    assert other.bert.forward.encoder.model is other.bert
    assert torch.equal(logits(other), expected)
    with torch.no_grad():
        other.bert.embeddings.word_embeddings.weight.mul_(2)
    assert (logits(other) - expected).abs().max() > 1e-2
    assert torch.equal(logits(model), expected)
    lckernels.unlengthen(other)
    assert "forward" not in other.bert.__dict__


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes(dtype):
    truth = logits(classifier().double())
    model = classifier()
    moved = {torch.float16: model.half, torch.bfloat16: model.bfloat16, torch.float64: model.double}[dtype]()
    ours = logits(moved)
    assert ours.dtype == dtype
    # The same chunks in the same dtype, without lengthen: the encoder's states, merged in fp32.
    plain = classifier(False).to(dtype)
    with torch.no_grad():
        states = lckernels.LongEncoder(plain.bert, summary="mean")(IDS, MASK).last_hidden_state
        honest = plain.classifier(plain.bert.pooler(states))
    assert_as_good_as(ours, truth, honest)
    assert torch.equal(ours, honest)


def test_to_of_a_lengthened_model_and_back():
    model = classifier()
    expected = logits(model)
    assert torch.equal(logits(model.to(torch.float64).to(torch.float32)), expected)


def test_autocast():
    model, plain = classifier(), classifier(False)
    truth = logits(model)
    with torch.autocast("cpu", torch.bfloat16):
        ours = logits(model)
        with torch.no_grad():
            states = lckernels.LongEncoder(plain.bert, summary="mean")(IDS, MASK).last_hidden_state
            honest = plain.classifier(plain.bert.pooler(states))
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, honest)
    assert (ours - truth).abs().max() < 0.05 * truth.abs().max()


def test_hooks_of_the_encoder_run_once():
    """A user's hooks receive the whole sequence; those of layers within run for each micro-batch."""
    model = classifier(False)
    seen, before, layers = [], [], []
    bert = model.bert
    bert.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state.shape))
    lckernels.lengthen(model, max_tokens=32)
    bert.register_forward_pre_hook(lambda module, args: before.append(args[0].shape))
    bert.encoder.layer[0].register_forward_hook(lambda module, args, output: layers.append(args[0].shape))
    assert seen == []  # nor a trial run
    logits(model)
    assert seen == [(2, 100, 16)]
    assert before == [(2, 100)]
    assert len(layers) > 2
    assert all(shape[1] <= 32 for shape in layers)


def test_a_hook_that_replaces_the_states():
    model = classifier()

    def replace(module, args, output):
        output.pooler_output = torch.zeros_like(output.pooler_output)
        return output

    model.bert.register_forward_hook(replace)
    assert torch.equal(logits(model), model.classifier.bias.expand(2, 3))


def test_threads():
    model = classifier()
    expected, rows = (
        logits(model),
        [(IDS, MASK), (IDS[1:, :50], MASK[1:, :50]), (IDS[:1, :20], MASK[:1, :20])],
    )
    alone = [logits(model, *row) for row in rows]
    results, errors = {}, []

    def run(i):
        try:
            results[i] = [logits(model, *rows[(i + n) % 3]) for n in range(6)]
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for i, found in results.items():
        assert all(torch.equal(x, alone[(i + n) % 3]) for n, x in enumerate(found))
    assert torch.equal(logits(model), expected)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_checkpointing(reentrant, recompute):
    expected = gradients(classifier(max_tokens=64).train())
    model = classifier(max_tokens=64, recompute=recompute).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    runs = []
    model.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: runs.append(1))
    model(input_ids=IDS, attention_mask=MASK)
    forward = len(runs)
    for ours, plain in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, plain, **CLOSE)
    assert len(runs) >= 3 * forward


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_recompute(dropout):
    runs = []

    def made(**options):
        torch.manual_seed(0)
        rates = dict.fromkeys(NO_DROPOUT, dropout)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, **rates)).train()
        lckernels.lengthen(model, max_tokens=64, **options)
        model.bert.encoder.layer[0].register_forward_hook(lambda *_: runs.append(1))
        torch.manual_seed(1)
        return gradients(model)

    expected, once = made(), len(runs)
    for ours, plain in zip(made(recompute=True), expected, strict=True):
        torch.testing.assert_close(ours, plain, **CLOSE)
    assert len(runs) == 3 * once


OFFLOADS = {
    "cpu": lambda accelerate, model, folder: accelerate.cpu_offload(model),
    "disk": lambda accelerate, model, folder: accelerate.disk_offload(model, folder),
    "whole": lambda accelerate, model, folder: accelerate.cpu_offload_with_hook(model, "cpu")[0],
}


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("first", ["offload", "lengthen"])
def test_offloaded_weights(tmp_path, offload, first):
    accelerate = pytest.importorskip("accelerate")
    expected, short = logits(classifier()), (IDS[:1, :20], MASK[:1, :20])
    model = classifier(first == "lengthen")
    OFFLOADS[offload](accelerate, model, tmp_path)
    assert (next(model.parameters()).device.type == "meta") == (offload != "whole")
    if first == "offload":
        lckernels.lengthen(model)
    torch.testing.assert_close(logits(model), expected, **CLOSE)
    torch.testing.assert_close(logits(model, *short), logits(classifier(False), *short), **CLOSE)
    lckernels.unlengthen(model)
    torch.testing.assert_close(logits(model, *short), logits(classifier(False), *short), **CLOSE)
    with pytest.raises((RuntimeError, IndexError)):
        logits(model)
