"""Models on the meta device: patched by structure, before their weights are loaded."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import VOCAB
from helpers.hf_patched import close, logits, model_of

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")


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
