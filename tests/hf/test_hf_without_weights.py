"""Models on the meta device: patched by structure, before their weights are loaded."""

# ruff: noqa: E402
import dataclasses

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import VOCAB
from helpers.hf_patched import close, logits, model_of

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


def without_weights(name):
    return model_of(name).to("meta")


def load(model, other):
    """Gives the model the weights and buffers of another one."""
    model.to_empty(device="cpu")
    model.load_state_dict(other.state_dict())
    for module, same in zip(model.modules(), other.modules(), strict=True):
        for key, buffer in same._buffers.items():  # those that no state_dict has
            module._buffers[key] = buffer


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("mistral", "gpt_oss", "bert", "llama4_text", "modernbert")),
        *((name, {"window": 4}) for name in ("gpt_oss", "bert", "llama4_text")),
        *((name, {"backend": "eager"}) for name in ("mistral", "bert")),
    ],
    ids=str,
)
def test_a_patch_before_the_weights_are_loaded(name, options):
    model, other = without_weights(name), model_of(name)
    report, expected = lckernels.patch(model, **options), lckernels.patch(other, **options)
    assert [(r.layer, r.kind, r.window, r.verdict) for r in report.rows] == [
        (r.layer, r.kind, r.window, r.verdict) for r in expected.rows
    ]
    assert {row.backend for row in report.taken} == {options.get("backend", "by device")}
    assert len(report.taken) == len(report.rows)
    load(model, other)
    close(logits(model), logits(other))


def test_a_forward_without_weights():
    model = without_weights("mistral")
    lckernels.patch(model)
    ids = torch.zeros(1, 9, dtype=torch.long, device="meta")
    assert model(ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, 9, VOCAB)


@pytest.mark.parametrize("options", [{}, {"attention": "lckernels"}, {"merge": "layer"}], ids=str)
def test_a_long_encoder_without_weights(options):
    """It explains a call, and a call returns the shapes."""
    encoder = lckernels.LongEncoder(without_weights("bert"), 40, 8, **options)
    expected = lckernels.LongEncoder(model_of("bert"), 40, 8, **options).explain(100)
    explained = encoder.explain(100)
    assert dataclasses.replace(explained, rows="") == expected
    assert explained.rows.startswith("not known before the first call")
    states = encoder(torch.zeros(1, 100, dtype=torch.long, device="meta")).last_hidden_state
    assert (states.shape, states.device.type) == ((1, 100, 32), "meta")


def test_a_long_encoder_without_weights_explains_long_rows():
    model = transformers.BertModel(transformers.BertConfig(**SIZES)).to("meta")
    explained = lckernels.LongEncoder(model, 256, 64).explain(700).attention
    assert explained == (
        "the model's own: its weights are on the meta device; the attention is known when they are loaded"
    )
