"""recompute=True on a CPU: a micro-batch is one node of the graph, where that has the same gradients."""

# ruff: noqa: E402
import pytest
import torch
from torch import nn

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import token_ids

import lckernels
from lckernels.training import CausalChunks

CHUNK, TOKENS = 20, 100
SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
IDS = token_ids(TOKENS)[None]


def bert(layers=2):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES, num_hidden_layers=layers, max_position_embeddings=32)
    return transformers.BertModel(config, add_pooling_layer=False).train().double()


def loss_of_encoder(recompute, model):
    module = lckernels.LongEncoder(model, CHUNK, 6, max_tokens=CHUNK, recompute=recompute)
    torch.manual_seed(7)
    return module(IDS).last_hidden_state.square().mean()


def loss_of_decoder(recompute, layers):
    torch.manual_seed(0)
    decoder = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES, num_hidden_layers=layers))
    module = CausalChunks(decoder.train(), CHUNK, 6, max_tokens=CHUNK, recompute=recompute)
    return module(IDS, labels=IDS).loss


def num_ops(loss):
    """Nodes of the graph that are no parameters."""
    found, following = set(), [loss.grad_fn]
    while following:
        node = following.pop()
        if node not in found:
            found.add(node)
            following += [source for source, _ in node.next_functions if source is not None]
    return sum(not hasattr(node, "variable") for node in found)


@pytest.mark.parametrize(
    "loss", [lambda r, n: loss_of_encoder(r, bert(n)), loss_of_decoder], ids=["encoder", "decoder"]
)
def test_the_graph_does_not_grow_with_layers(loss):
    assert num_ops(loss(True, 1)) == num_ops(loss(True, 3))
    assert num_ops(loss(False, 1)) < num_ops(loss(False, 3))


def gradients(recompute, change, finish=lambda loss: loss):
    """Of a step of a model after `change(model)`, of the tensors that this returns, or of all parameters."""
    model = bert()
    tensors = change(model) or list(model.parameters())
    loss = finish(loss_of_encoder(recompute, model))
    loss.backward()
    return [x.grad for x in tensors if x.grad is not None]


def assert_equal(*arguments):
    got, expected = (gradients(recompute, *arguments) for recompute in (True, False))
    assert len(got) == len(expected) > 0
    for ours, stored in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, stored, rtol=0, atol=1e-12)


def test_a_hook_of_a_parameter_runs_once():
    calls = []

    def hook(grad):
        calls.append(grad)
        return grad * 2

    def change(model):
        model.embeddings.word_embeddings.weight.register_hook(hook)

    assert_equal(change)
    assert len(calls) == 2  # of one backward each


def test_a_hook_after_the_forward_is_an_error():
    model = bert()
    loss = loss_of_encoder(True, model)
    model.embeddings.word_embeddings.weight.register_hook(lambda grad: grad * 2)
    with pytest.raises(RuntimeError, match="recompute: got a hook of a parameter that was added after"):
        loss.backward()


class Scaled(nn.Module):
    """Multiplies by a tensor that is no parameter of it."""

    def __init__(self, inner, scale):
        super().__init__()
        self.inner, self.of_scale = inner, lambda: scale

    def forward(self, states):
        return self.inner(states) * self.of_scale()


@pytest.mark.parametrize("of_leaf", [lambda x: x, lambda x: x.exp()], ids=["a leaf", "computed before"])
@pytest.mark.parametrize("is_parameter", [False, True])
def test_a_tensor_from_outside_of_the_model(of_leaf, is_parameter):
    def change(model):
        layer = model.encoder.layer[0].output
        leaf = torch.linspace(1, 2, 16, dtype=torch.float64, requires_grad=True)
        if is_parameter:
            leaf = layer.LayerNorm.bias
        layer.dense = Scaled(layer.dense, of_leaf(leaf))
        return [leaf, layer.LayerNorm.weight]

    assert_equal(change)


def test_a_loss_of_states_within_the_model():
    inner = []

    def change(model):
        inner.clear()
        model.encoder.layer[0].register_forward_hook(lambda *args: inner.append(args[2]))

    def finish(loss):
        return loss + sum(x.square().mean() for x in inner[-4:])

    assert_equal(change, finish)


def test_states_can_be_changed_in_place():
    module = lckernels.LongEncoder(bert(), CHUNK, 6, merge="layer", attention="lckernels", recompute=True)
    states = module(IDS).last_hidden_state
    states.mul_(2)
    states.sum().backward()


def test_second_order():
    def run(recompute):
        torch.manual_seed(0)
        sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}  # a Llama's norms are in float32
        config = transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, attn_implementation="eager")
        decoder = transformers.GPT2LMHeadModel(config).train().double()
        decoder.lm_head.register_forward_hook(lambda *_: None)  # the head in pieces has no second order
        torch.manual_seed(7)
        loss = CausalChunks(decoder, CHUNK, 6, max_tokens=CHUNK, recompute=recompute)(IDS, labels=IDS).loss
        first = torch.autograd.grad(loss, list(decoder.parameters()), create_graph=True)
        sum(x.square().sum() for x in first).backward()
        return [x.grad for x in decoder.parameters()]

    for ours, stored in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(ours, stored, rtol=1e-10, atol=1e-12)
        assert stored.abs().max() > 0
