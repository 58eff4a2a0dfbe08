"""Replicas of DataParallel of a lengthened model: each reads rows of any length on its own weights."""

# ruff: noqa: E402
import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import pad, tiny, token_ids
from helpers.head_models import encoder_of, head_model
from helpers.replicas import replicas_of
from helpers.seq2seq import LABELS, batch, lengthened_and_plain, row

import lckernels

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning"),
]


def scaled(tensor):
    return tensor * 0.8 if isinstance(tensor, torch.nn.Parameter) else tensor.clone()


def scale(model):
    """A copy of the model with the weights of a replica by `scaled`."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(scaled(parameter))
    return other


def results(models, **inputs):
    """The first output of each model, one thread each, as in DataParallel."""
    with ThreadPoolExecutor(len(models)) as pool:
        return list(pool.map(lambda model: model(**inputs), models))


@pytest.mark.parametrize("order", ["lengthen", "lengthen, patch", "patch, lengthen"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
def test_each_runs_on_its_own_weights(family, order):
    model = head_model(family, "TokenClassification")
    for step in order.split(", "):
        getattr(lckernels, step)(model)
    ids, mask = pad([token_ids(70), token_ids(40)], "right")
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": (ids % 3) * mask - 100 * (1 - mask)}
    other = scale(model)
    expected = [m(**inputs) for m in (model, other)]
    replicas = replicas_of(model, torch.clone, scaled)
    for output, of_model, replica in zip(results(replicas, **inputs), expected, replicas, strict=True):
        torch.testing.assert_close(output.logits, of_model.logits, rtol=1e-12, atol=1e-12)
        assert encoder_of(replica).forward.encoder.model is encoder_of(replica)
        model.zero_grad(), other.zero_grad()
        output.loss.backward()
        ours = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        of_model.loss.backward()
        for grad, p, q in zip(ours, model.parameters(), other.parameters(), strict=True):
            theirs = p.grad if of_model is expected[0] else q.grad * 0.8
            torch.testing.assert_close(grad, theirs, rtol=1e-9, atol=1e-12)
    assert (expected[0].logits - expected[1].logits).abs().max() > 1e-2
    assert torch.equal(model(**inputs).logits, expected[0].logits)


def test_a_fixed_prefix():
    model = head_model("bert", "TokenClassification")
    lckernels.lengthen(model, prefix=[7, 8])
    expected = [m(token_ids(70)[None]).logits for m in (model, scale(model))]
    replicas = replicas_of(model, torch.clone, scaled)
    for output, logits in zip(results(replicas, input_ids=token_ids(70)[None]), expected, strict=True):
        torch.testing.assert_close(output.logits, logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_joints_of_an_encoder_decoder(name):
    joint = torch.nn.Parameter(torch.ones(16))
    model, _, _ = lengthened_and_plain(name, joints=joint)
    inputs = {**batch([row(n, (1, 1)) for n in (90, 41, 15)]), "labels": LABELS}
    expected = [m(**inputs) for m in (model, scale(model))]
    replicas = replicas_of(model, torch.clone, scaled)
    for output, of_model, replica in zip(results(replicas, **inputs), expected, replicas, strict=True):
        torch.testing.assert_close(output.logits, of_model.logits, rtol=1e-5, atol=1e-5)
        assert replica.get_decoder().forward.module is replica.get_decoder()
        joint.grad = None
        output.loss.backward()
        assert joint.grad.any()


def test_unlengthen_and_unpatch_in_either_order():
    for first, second in (("unlengthen", "unpatch"), ("unpatch", "unlengthen")):
        model = head_model("bert", "TokenClassification")
        before = {name: dict(module.__dict__) for name, module in model.named_modules()}
        lckernels.lengthen(model)
        lckernels.patch(model)
        getattr(lckernels, first)(model)
        inputs = {"input_ids": token_ids(20)[None]}
        replicas = replicas_of(model, torch.clone, scaled)
        expected = [m(**inputs).logits for m in (model, scale(model))]
        for output, logits in zip(results(replicas, **inputs), expected, strict=True):
            torch.testing.assert_close(output.logits, logits, rtol=1e-12, atol=1e-12)
        getattr(lckernels, second)(model)
        assert {name: module.__dict__ for name, module in model.named_modules()} == before


def test_a_long_encoder_with_frequencies_by_length():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = transformers.NomicBertConfig(
        vocab_size=64, max_position_embeddings=16, rope_parameters=rope, initializer_range=0.2, **sizes
    )
    torch.manual_seed(0)
    encoder = lckernels.LongEncoder(transformers.NomicBertModel(config).eval(), 16, 4)
    expected = [m(token_ids(70)[None]).last_hidden_state for m in (encoder, scale(encoder))]
    encoder.model(token_ids(70)[None])  # whose frequencies stay for rows of 16 tokens
    replicas = replicas_of(encoder, torch.clone, scaled)
    for output, states in zip(results(replicas, input_ids=token_ids(70)[None]), expected, strict=True):
        torch.testing.assert_close(output.last_hidden_state, states)


@pytest.mark.parametrize("attention", ["auto", "lckernels"])
def test_attention_of_long_chunks(attention):
    model = tiny("bert")
    model.config.max_position_embeddings = 512
    model.embeddings.position_embeddings = torch.nn.Embedding(512, model.config.hidden_size)
    model.embeddings.position_ids = torch.arange(512)[None]
    model.embeddings.token_type_ids = torch.zeros(1, 512, dtype=torch.long)
    lckernels.lengthen(model, chunk_len=200, attention=attention)
    expected = [m(token_ids(500)[None]).last_hidden_state for m in (model, scale(model))]
    replicas = replicas_of(model, torch.clone, scaled)
    for output, states in zip(results(replicas, input_ids=token_ids(500)[None]), expected, strict=True):
        torch.testing.assert_close(output.last_hidden_state, states, rtol=1e-4, atol=1e-5)
