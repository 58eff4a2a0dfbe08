"""Layers that a model's main input does not reach: vision towers, cross attention of some calls."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_calls import served_runs
from helpers.hf_cross import CROSS
from helpers.hf_images import MODELS, build
from helpers.hf_patched import logits

import lckernels
import lckernels.hf.interface
from lckernels.hf.report import LATER

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def runs(monkeypatch):
    """The calls of the op."""
    return served_runs(monkeypatch)


def is_tower(row):
    """Of the layers of a vision tower; the one that pools in Gemma 3 is torch's own module."""
    return ("vision" in row.layer or "visual" in row.layer) and ".head." not in row.layer


@pytest.mark.parametrize("name", MODELS)
def test_a_vision_tower_is_reported_and_runs_on_the_named_backend(name, runs):
    model, inputs = build(name)
    expected = logits(model, **inputs)
    report = lckernels.patch(model, backend="eager")
    tower = [row for row in report.rows if is_tower(row)]
    assert len(tower) == 2
    assert [row.backend for row in tower] == ["eager"] * 2
    assert [row.verdict for row in tower] == ["exact"] * 2
    assert not report.unknown
    torch.testing.assert_close(logits(model, **inputs), expected, rtol=1e-5, atol=1e-5)
    assert len(runs) >= 2
    assert {run.backend for run in runs} == {"eager"}


@pytest.mark.parametrize("name", MODELS)
def test_a_window_does_not_narrow_a_vision_tower(name, runs):
    model, inputs = build(name)
    report = lckernels.patch(model, window=2)
    assert {row.verdict.split(":")[0] for row in report.rows if is_tower(row)} <= {"exact", LATER}
    logits(model, **inputs)
    assert [run.window for run in runs[:2]] == [(-1, -1)] * 2


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_cross_attention_that_only_some_calls_have(name, runs):
    case = CROSS[name]()
    model = case.build()
    inputs = case.inputs(case.num_states)
    expected = logits(model, **inputs)
    report = lckernels.patch(model, backend="eager")
    later = [row.layer for row in report.rows if row.verdict == LATER]
    assert len(report.rows) == 4 and len(report.taken) == 2
    assert all("crossattention" in layer for layer in later) and len(later) == 2
    assert report.unknown == "the model's main input does not reach them"
    torch.testing.assert_close(logits(model, **inputs), expected, rtol=1e-5, atol=1e-5)
    assert [(run.backend, run.window) for run in runs] == [("eager", (-1, 0)), ("eager", (-1, -1))] * 2
