"""CausalChunks and MaskedChunks: models that change what they read, second order, eval mode, other sizes."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.language_models import (
    CAUSAL,
    batch,
    causal,
    gradients,
    largest_difference,
    masked,
)

from lckernels.training import CausalChunks, MaskedChunks

pytestmark = pytest.mark.hf

CONTEXT, OVERLAP = 12, 5
DOCUMENTS = batch([50, 17])


class Overwriting(transformers.LlamaForCausalLM):
    """Overwrites its inputs, as some models do, in another way in each run on the same tensor."""

    def forward(self, input_ids, attention_mask=None, **options):
        input_ids.add_(1).clamp_(max=40)
        return super().forward(input_ids, attention_mask=attention_mask, **options)


class Counting(transformers.LlamaForCausalLM):
    """Its states depend on how often it ran."""

    def __init__(self, config):
        super().__init__(config)
        self.model.register_buffer("steps", torch.ones(()))

    def forward(self, *args, **options):
        self.model.steps.add_(1)
        return super().forward(*args, **options)


def made(model_class):
    torch.manual_seed(0)
    return model_class(transformers.LlamaConfig(**CAUSAL["llama"][1])).double().train()


def module_of(kind, recompute, **sizes):
    if kind is CausalChunks:
        return CausalChunks(causal("gpt2", **sizes), CONTEXT, OVERLAP, recompute=recompute, max_tokens=30)
    return MaskedChunks(masked("bert", **sizes), CONTEXT, OVERLAP, recompute=recompute, max_tokens=30)


def test_a_model_that_overwrites_its_inputs():
    found = []
    for recompute in (False, True):
        model, documents = made(Overwriting), {name: x.clone() for name, x in DOCUMENTS.items()}
        loss = CausalChunks(model, CONTEXT, OVERLAP, recompute=recompute, max_tokens=30)(**documents).loss
        found.append((loss.detach(), gradients(loss, model)))
        assert all(torch.equal(x, DOCUMENTS[name]) for name, x in documents.items())
    assert found[0][0] == found[1][0]
    assert largest_difference(found[1][1], found[0][1]) < 1e-12


def test_a_model_that_changes_a_buffer():
    error = r"recompute: got True, and Counting changes its buffer model\.steps in each forward"
    with pytest.raises(TypeError, match=error):
        CausalChunks(made(Counting), CONTEXT, OVERLAP, recompute=True)(**DOCUMENTS)
    CausalChunks(made(Counting), CONTEXT, OVERLAP)(**DOCUMENTS)
    with torch.no_grad():
        CausalChunks(made(Counting), CONTEXT, OVERLAP, recompute=True)(**DOCUMENTS)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_second_order_is_an_error(recompute):
    model = causal("llama")
    module = CausalChunks(model, CONTEXT, OVERLAP, recompute=recompute)
    with pytest.raises(RuntimeError, match=r"loss\.linear_cross_entropy: got create_graph=True"):
        torch.autograd.grad(module(**DOCUMENTS).loss, list(model.parameters()), create_graph=True)


@pytest.mark.parametrize("kind", [CausalChunks, MaskedChunks])
def test_eval_mode(kind):
    """Dropout does nothing; gradients are those of stored activations."""
    sizes = {"resid_pdrop": 0.3} if kind is CausalChunks else {"hidden_dropout_prob": 0.3}
    plain = module_of(kind, False)
    expected = plain(**DOCUMENTS).loss
    for recompute in (False, True):
        module = module_of(kind, recompute, **sizes).eval()
        loss = module(**DOCUMENTS).loss
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        assert largest_difference(gradients(loss, module), gradients(plain(**DOCUMENTS).loss, plain)) < 1e-12
        assert (module.train()(**DOCUMENTS).loss - expected).abs() > 1e-4


@pytest.mark.parametrize("kind", [CausalChunks, MaskedChunks])
def test_a_run_is_resumed_with_another_overlap(kind):
    """Sizes are no part of what is saved: the resumed run has those of its own module."""
    saved = module_of(kind, False)
    with torch.no_grad():
        for weight in saved.parameters():
            weight.mul_(1.5)
    fresh = kind(saved.model, CONTEXT, 2)
    resumed = kind(causal("gpt2") if kind is CausalChunks else masked("bert"), CONTEXT, 2)
    resumed.load_state_dict(saved.state_dict())
    found, expected, before = (x(**DOCUMENTS) for x in (resumed, fresh, saved))
    assert found.loss == expected.loss != before.loss
    assert torch.equal(found.num_scored, before.num_scored)


def test_the_same_seed_drops_the_same():
    """Same bits for the same sizes, with recompute or not; another overlap draws other numbers."""
    losses = {}
    for overlap, recompute in ((5, False), (5, True), (5, False), (6, False)):
        model = causal("gpt2", resid_pdrop=0.3)
        torch.manual_seed(3)
        loss = CausalChunks(model, CONTEXT, overlap, recompute=recompute)(**DOCUMENTS).loss.item()
        losses.setdefault(overlap, []).append((loss, torch.rand(()).item()))
    assert len({*losses[5]}) == 1 and losses[5][0] != losses[6][0]
