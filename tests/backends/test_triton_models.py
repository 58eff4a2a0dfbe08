"""Whole models on the Triton kernels, as users call them: on a GPU, or in Triton's interpreter."""

from collections import Counter
from unittest.mock import patch

import pytest
import torch
from helpers.backends import DEVICE, TESTED, requires_dtype

pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.encoder_models import tiny
from helpers.hf_patched import tiny_mistral

import lckernels
from lckernels.backends import registry

pytestmark = [
    pytest.mark.triton,
    pytest.mark.triton_all,
    pytest.mark.skipif(TESTED != "triton", reason="make test-triton tests the Triton kernels"),
    requires_dtype(torch.float32),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.fixture
def launched(monkeypatch):
    """How often each op of the backend was called."""
    backend, counted = registry.backends()["triton"], Counter()

    def counting(name, run):
        return lambda *args, **kwargs: counted.update([name]) or run(*args, **kwargs)

    monkeypatch.setattr(backend, "ops", {name: counting(name, run) for name, run in backend.ops.items()})
    return counted


@pytest.fixture
def tokens():
    drawn = torch.randint(1, 60, (1, 21), generator=torch.Generator().manual_seed(1))
    return drawn.to(DEVICE)


def test_a_patched_decoder_with_its_gradients(tokens, launched):
    model = tiny_mistral().to(DEVICE)

    def solved():
        model.zero_grad()
        output = model(input_ids=tokens, labels=tokens, use_cache=False)
        output.loss.backward()
        return [output.logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    want = solved()
    with lckernels.patched(model):
        got = solved()
    assert launched == {"windowed_attention": 2, "windowed_attention_backward": 2}
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_generating_with_a_cache(tokens, launched):
    model = tiny_mistral().to(DEVICE)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    want = model.generate(tokens, **options)
    with lckernels.patched(model):
        assert torch.equal(model.generate(tokens, **options), want)
    assert launched["windowed_attention"] == 2 * 3


@pytest.mark.parametrize(
    ("merge", "attention"),
    [("final", "windowed_attention"), ("layer", "chunked_attention")],
    ids=["final", "layer"],
)
def test_a_long_encoder(tokens, launched, merge, attention):
    encoder = lckernels.LongEncoder(tiny().to(DEVICE), 12, 4, merge=merge, attention="lckernels")
    with torch.no_grad():
        with patch.object(registry, "settings", lambda: {"backend": "eager"}):
            want = encoder(tokens).last_hidden_state
        assert not launched
        got = encoder(tokens).last_hidden_state
    layers = encoder.model.config.num_hidden_layers
    assert launched[attention] >= layers and (merge == "layer" or launched["overlap_merge"] == 1)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
