"""Each call of LongEncoder validates its plan once."""

import pytest
import torch

pytest.importorskip("transformers")

from helpers.encoder_models import final, layer, pad, tiny, token_ids

import lckernels.plan


@pytest.fixture
def validations(monkeypatch):
    """The plans that were built and validated, in order."""
    built, build = [], lckernels.plan.Plan.from_segments.__func__

    def counted(cls, *args, **kwargs):
        built.append(build(cls, *args, **kwargs))
        return built[-1]

    monkeypatch.setattr(lckernels.plan.Plan, "from_segments", classmethod(counted))
    return built


def ragged():
    return pad([token_ids(n) for n in (70, 2, 33)], "right")


@pytest.mark.parametrize("build", [final, layer])
@pytest.mark.parametrize("hidden_states", [False, True])
def test_a_call_validates_one_plan(build, hidden_states, validations):
    encoder = build(tiny(), 20, 6)
    ids, mask = ragged()
    with torch.no_grad():
        encoder(ids, mask, output_hidden_states=hidden_states)
    assert len(validations) == 1


def test_layer_merge_validates_one_plan_per_row_of_the_model(validations):
    encoder = layer(tiny(), 20, 6, max_tokens=1)
    ids, mask = ragged()
    with torch.no_grad():
        encoder(ids, mask)
    assert len(validations) == 3
    assert sum(plan.total_len for plan in validations) == 70 + 2 + 33 - 3 * 2


def test_weights_from_a_function_use_the_calls_plan(validations):
    def weights(plan):
        assert plan is validations[0]
        return torch.ones(plan.num_chunks, plan.chunk_len)

    with torch.no_grad():
        final(tiny(), 20, 6, weights)(*ragged())
    assert len(validations) == 1


def test_explain_validates_none(validations):
    assert final(tiny(), 20, 6).explain([70, 33]).num_chunks > 2
    assert not validations
