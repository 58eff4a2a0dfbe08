"""Cross attention is found by a layer's arguments, whatever the numbers of queries and keys.

A window does not narrow it.
"""

# ruff: noqa: E402
import copy
import re

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_calls import served_runs
from helpers.hf_cross import CROSS
from helpers.hf_patched import attributes, logits

import lckernels
import lckernels.hf.interface
from lckernels.hf.patch import api
from lckernels.hf.patch.dry_run import DryRun, padded_dry_run

pytestmark = pytest.mark.usefixtures("one_thread")

ENCODER_DECODERS = [
    *("bart", "marian", "m2m100", "speech_to_text", "whisper", "moonshine"),
    *("encoder_decoder", "vision_encoder_decoder"),
]
NAMES = re.compile("encoder_attn|crossattention")  # of cross attention in these models


@pytest.fixture
def unknown(monkeypatch):
    """The models cannot run on the meta device."""
    monkeypatch.setattr(api, "padded_dry_run", lambda model: DryRun((), "RuntimeError: it reads values"))


@pytest.fixture
def windows(monkeypatch):
    """A function that returns the windows of the calls of the op so far."""
    runs = served_runs(monkeypatch)
    return lambda: [run.window for run in runs]


@pytest.mark.parametrize("name", CROSS)
def test_the_first_call_does_not_matter(name, unknown):
    """Results after a first call with as many tokens as the encoder has states, and after another one."""
    case = CROSS[name]()
    equal, other = (case.inputs(seqlen) for seqlen in (case.num_states, case.num_states + 4))
    results = []
    for first in (equal, other):
        model = case.build()
        assert lckernels.patch(model, window=4).unknown
        logits(model, **first)
        results.append([logits(model, **inputs) for inputs in (equal, other)])
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", CROSS)
def test_a_window_does_not_narrow_cross_attention(name, unknown, windows):
    """In a first call with as many queries as keys: cross attention sees all keys, other layers a window."""
    case = CROSS[name]()
    model = case.build()
    report = lckernels.patch(model, window=4)
    num_cross = sum(bool(NAMES.search(row.layer)) for row in report.rows)
    logits(model, **case.inputs(case.num_states))
    assert windows().count((-1, -1)) == num_cross > 0
    assert len(windows()) == len(report.rows) > num_cross
    # A window that leaves no key out is none.
    none = {(-1, 0)} if case.num_states <= 4 else set()
    assert set(windows()) <= {(-1, -1), (3, 0), (2, 2)} | none


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_a_dry_run_finds_cross_attention(name):
    model = CROSS[name]().build()
    run = padded_dry_run(model)
    assert not run.error
    assert {bool(NAMES.search(call.layer)) for call in run.calls} == {False, True}
    for call in run.calls:
        assert call.kind.cross == bool(NAMES.search(call.layer))
    report = lckernels.patch(model, window=4)
    assert all((row.kind == "cross") == (row.verdict == "exact") for row in report.rows)


def test_unpatch_removes_what_finds_cross_attention(unknown):
    model = CROSS["bart"]().build()
    before, hooks = attributes(model), [dict(m._forward_pre_hooks) for m in model.modules()]
    with lckernels.patched(model, window=4):
        copied = copy.deepcopy(model)
        assert any(m._forward_pre_hooks for m in model.modules())
    lckernels.unpatch(copied)
    assert attributes(model) == before
    for each in (model, copied):
        assert [dict(m._forward_pre_hooks) for m in each.modules()] == hooks


def test_compiled(unknown):
    """The first call is compiled."""
    case = CROSS["bart"]()
    expected, model = case.build(), case.build()
    for each in (expected, model):
        lckernels.patch(each, window=4)
    inputs = case.inputs(case.num_states)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(logits(compiled, **inputs), logits(expected, **inputs))
