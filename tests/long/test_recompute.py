"""recompute=True: the gradients are those of stored activations, in the memory of one micro-batch."""

# ruff: noqa: E402
import copy

import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import SIZES, WIDE, pad, tiny, token_ids
from helpers.head_models import head_model
from helpers.live_bytes import LiveBytes
from helpers.seq2seq import LABELS, lengthened_and_plain

import lckernels

CHUNK = 20
IDS, MASK = pad([token_ids(100), token_ids(33)], "right")
ROWS = {"input_ids": IDS, "attention_mask": MASK}
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-6}


def encoder(recompute, model=None, **options):
    model = tiny().double() if model is None else model
    return lckernels.LongEncoder(model, CHUNK, 6, **{"max_tokens": CHUNK, "recompute": recompute, **options})


def with_dropout(**sizes):
    """A BERT in training mode with dropout in states and in attention."""
    torch.manual_seed(0)
    sizes = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2, **sizes}
    return transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False).train()


def loss_of(output):
    """A scalar that depends on each state in another way."""
    if getattr(output, "loss", None) is not None:
        return output.loss
    states = (output.last_hidden_state, *(output.hidden_states or ()))
    return sum((x * torch.linspace(-1, 1, x.shape[1], dtype=x.dtype)[:, None]).square().sum() for x in states)


def trained(module, inputs=ROWS, seed=7):
    """The loss, then all gradients, of one step."""
    torch.manual_seed(seed)
    module.zero_grad()
    loss = loss_of(module(**inputs))
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in module.parameters() if p.grad is not None)]


def assert_same(got, expected, tolerance=None):
    """Errors relative to the largest value of each tensor."""
    assert len(got) == len(expected)
    for ours, stored in zip(got, expected, strict=True):
        atol = (tolerance or CLOSE[stored.dtype]) * max(1.0, stored.abs().max().item())
        torch.testing.assert_close(ours, stored, rtol=0, atol=atol)
    assert any(x.abs().max() > 0 for x in expected[1:])


OPTIONS = {
    "": {},
    "several chunks at once": {"max_tokens": 3 * CHUNK},
    "mean": {"summary": "mean"},
    "prefix": {"prefix": [7, 8, 9]},
    "crop": {"weights": "crop", "boundaries": "max_context"},
    "output_device": {"output_device": torch.device("cpu", 0)},
    "layer": {"merge": "layer", "attention": "lckernels"},
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_gradients_with_dropout(options, dtype):
    inputs = {**ROWS, "output_hidden_states": True}
    expected, got = (
        trained(encoder(recompute, with_dropout().to(dtype), **options), inputs)
        for recompute in (False, True)
    )
    assert_same(got, expected)
    other = trained(encoder(True, with_dropout().to(dtype), **options), inputs, seed=8)
    assert (other[0] - got[0]).abs() > 1e-3  # the dropout matters


def test_weights_have_the_same_gradient():
    shape = encoder(False).num_chunks([100, 33]), CHUNK
    weights = [torch.ones(shape, requires_grad=True) for _ in range(2)]
    for recompute, given in zip((False, True), weights, strict=True):
        trained(encoder(recompute, weights=given))
    assert_same([weights[1].grad] * 2, [weights[0].grad] * 2)


def test_autocast():
    def run(recompute):
        module = encoder(recompute, with_dropout())
        torch.manual_seed(7)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(module(**ROWS))
        loss.backward()  # outside of autocast, as usual
        return [loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]

    expected, got = run(False), run(True)
    assert_same(got, expected)
    full = trained(encoder(False, with_dropout()))
    assert (full[0] - expected[0]).abs() > 1e-3  # bf16 was used


def test_accumulation_over_several_steps():
    def run(recompute):
        module = encoder(recompute, with_dropout().double())
        torch.manual_seed(7)
        for length in (100, 61, 20):
            loss_of(module(token_ids(length)[None])).backward()
        return [p.grad for p in module.parameters() if p.grad is not None]

    assert_same(run(True), run(False))


def test_lora():
    peft = pytest.importorskip("peft")

    def run(recompute):
        config = peft.LoraConfig(
            task_type="TOKEN_CLS",
            target_modules=["query", "value"],
            init_lora_weights=False,
            lora_dropout=0.1,
        )
        model = head_model("bert", "TokenClassification").train()
        torch.manual_seed(5)
        model = peft.get_peft_model(model, config).double()
        lckernels.lengthen(model, max_tokens=32, recompute=recompute)
        return trained(model, {**ROWS, "labels": IDS % 3})

    expected = run(False)
    assert len(expected) < 15  # the adapters and the head alone
    assert_same(run(True), expected)


@pytest.mark.parametrize("frozen", ["embeddings", "encoder.layer.0", "all"])
def test_frozen_layers(frozen):
    def run(recompute):
        model = with_dropout().double()
        parts = (model.embeddings, model.encoder.layer[0]) if frozen != "embeddings" else (model.embeddings,)
        for part in (model,) if frozen == "all" else parts:
            part.requires_grad_(False)
        module = encoder(recompute, model)
        if frozen != "all":
            return trained(module)
        output = module(**ROWS).last_hidden_state
        assert not output.requires_grad
        return [output, output]

    assert_same(run(True), run(False))


@pytest.mark.parametrize(
    ("mode", "recompute"),
    [
        ("inner", False),
        ("inner", True),
        pytest.param("outer", False, marks=pytest.mark.slow),
        ("outer", True),
    ],
)
def test_compile(mode, recompute):
    """Without recompute too: the states are written in the same way."""
    torch._dynamo.reset()
    model = tiny().double()
    model.pooler = None
    expected = trained(encoder(False, copy.deepcopy(model)))
    if mode == "inner":
        module = encoder(recompute, torch.compile(model, backend="aot_eager"))
    else:
        module = torch.compile(encoder(recompute, model), backend="aot_eager")
    assert_same(trained(module), expected)
    torch._dynamo.reset()


HEADS = {
    "TokenClassification": {"labels": IDS % 3},
    "SequenceClassification": {"labels": torch.tensor([0, 2])},
    "QuestionAnswering": {"start_positions": torch.tensor([70, 3]), "end_positions": torch.tensor([80, 9])},
}


@pytest.mark.parametrize("head", HEADS)
def test_heads(head):
    def run(recompute):
        model = head_model("bert", head).train()
        lckernels.lengthen(model, max_tokens=32, recompute=recompute)
        return trained(model, {**ROWS, **HEADS[head]})

    assert_same(run(True), run(False))


def test_encoder_decoder():
    def run(recompute):
        model, _, _ = lengthened_and_plain("t5", max_tokens=24, recompute=recompute)
        return trained(model.double().train(), {**ROWS, "labels": LABELS[:2]})

    assert_same(run(True), run(False))


class Changing(nn.Module):
    """Overwrites its inputs, as some models do."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def forward(self, input_ids=None, inputs_embeds=None, **inputs):
        if inputs_embeds is not None:
            inputs_embeds.mul_(2)
        else:
            input_ids.add_(1).remainder_(50)
        return self.model(input_ids=input_ids, inputs_embeds=inputs_embeds, **inputs)


@pytest.mark.parametrize("wrap", [lambda model: model, Changing], ids=["", "that the model overwrites"])
def test_inputs(wrap):
    """Ids, and embeddings that require gradients."""
    embeds = torch.randn(2, 100, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(recompute, **inputs):
        return trained(encoder(recompute, wrap(with_dropout().double())), {"attention_mask": MASK, **inputs})

    given = [embeds.clone().requires_grad_() for _ in range(2)]
    for x, recompute in zip(given, (True, False), strict=True):
        run(recompute, inputs_embeds=x)
    assert_same([x.grad for x in given], [given[1].grad, given[1].grad])
    assert_same(run(True, input_ids=IDS), run(False, input_ids=IDS))


def test_the_second_order_is_an_error():
    for recompute in (False, True):
        module = encoder(recompute)
        loss = loss_of(module(IDS))
        with pytest.raises(RuntimeError, match="overlap_merge: got create_graph=True"):
            torch.autograd.grad(loss, list(module.parameters())[:1], create_graph=True)


def test_two_backwards_of_one_graph():
    expected = trained(encoder(False, with_dropout().double()))
    module = encoder(True, with_dropout().double())
    torch.manual_seed(7)
    loss = loss_of(module(**ROWS))
    for retain_graph in (True, True, False):
        module.zero_grad()
        loss.backward(retain_graph=retain_graph)
        found = [loss.detach(), *(p.grad for p in module.parameters() if p.grad is not None)]
        assert_same(found, expected)
    with pytest.raises(RuntimeError):
        loss.backward()


def test_eval_mode_and_no_gradient():
    module, stored = encoder(True).eval(), encoder(False).eval()
    assert_same(trained(module), trained(stored))
    with torch.no_grad():
        assert torch.equal(module(**ROWS).last_hidden_state, stored(**ROWS).last_hidden_state)


class Normalized(nn.Module):
    """A norm with state of its own in place of a layer's output norm."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, states):
        return self.inner(states.transpose(1, 2)).transpose(1, 2)


class Counting(nn.Module):
    """Its result depends on how often it ran."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.float64))

    def forward(self, states):
        self.steps.add_(1)
        return states * self.steps


def test_batch_norm_counts_a_micro_batch_once():
    def run(recompute):
        model = with_dropout().double()
        model.encoder.layer[1].output.LayerNorm = Normalized(nn.BatchNorm1d(16).double())
        found = trained(encoder(recompute, model))
        return [*found, *(x.double() for x in model.buffers() if x.requires_grad is False)]

    assert_same(run(True), run(False))


def test_a_model_that_changes_a_buffer_is_an_error():
    model = with_dropout().double()
    model.encoder.layer[1].output.LayerNorm = Counting()
    error = (
        r"recompute: got True, and BertModel changes its buffer encoder\.layer\.1\.output\.LayerNorm\.steps"
    )
    with pytest.raises(TypeError, match=error):
        encoder(True, model)(**ROWS)
    encoder(False, model)(**ROWS)
    with torch.no_grad():
        encoder(True, model)(**ROWS)


@pytest.mark.parametrize("merge", ["final", "layer"])
def test_how_often_a_micro_batch_runs(merge):
    runs = []
    attention = "lckernels" if merge == "layer" else "auto"
    module = encoder(True, merge=merge, attention=attention)
    module.model.encoder.layer[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        module(**ROWS)
    once = len(runs)
    loss = loss_of(module(**ROWS))
    assert len(runs) == 2 * once
    loss.backward()
    assert len(runs) == 3 * once


def saved_bytes(layers, recompute):
    stored = []
    module = encoder(recompute, with_dropout(num_hidden_layers=layers))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: stored.append(x.nbytes) or x, lambda x: x):
        module(token_ids(400)[None])
    return sum(stored)


def test_stored_bytes_do_not_grow_with_layers():
    assert saved_bytes(4, True) == saved_bytes(1, True)
    assert saved_bytes(4, False) > 2 * saved_bytes(1, False)


def peak_bytes(tokens, layers, recompute):
    module = encoder(recompute, with_dropout(num_hidden_layers=layers), attention="model")
    with LiveBytes() as live:
        module(token_ids(tokens)[None]).last_hidden_state.mean().backward()
    return live.peak


def test_peak_memory():
    """A token more costs a few states, and none of its activations."""
    states = 16 * 4 * CHUNK / (CHUNK - 8)  # bytes of a token's state in the chunks
    per_token = (peak_bytes(800, 2, True) - peak_bytes(400, 2, True)) / 400
    assert per_token < 2.2 * states
    assert (peak_bytes(800, 2, False) - peak_bytes(400, 2, False)) / 400 > 10 * states
