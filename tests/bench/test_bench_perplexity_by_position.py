"""bench.suites.perplexity_by_position on a tiny model: losses through the cache, bins, one small run."""

# ruff: noqa: E402
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from bench.suites import perplexity_by_position as suite


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=None, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in (("WINDOW", 16), ("SINKS", 2), ("PIECE", 16), ("BIN", 8)):
        monkeypatch.setattr(suite, name, value)
    ways = zip(suite.WAYS, ((), (16,), (16, 2), (16, 2, "cache")), strict=True)
    monkeypatch.setattr(suite, "WAYS", {name: suite.Patch(*values) for name, values in ways})


def token_ids(*shape):
    return torch.randint(1, 50, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tokens", [64, 49, 16])
def test_losses_are_those_of_the_whole_sequence(model, tokens):
    ids = token_ids(1, tokens)
    with torch.no_grad():
        want = F.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    torch.testing.assert_close(suite.losses(model, ids), want, rtol=1e-4, atol=1e-5)


def test_bins_are_of_the_predicted_token(model, monkeypatch):
    """The loss of token t is t: bins of 8 tokens, the first without its first token."""
    monkeypatch.setattr(suite, "losses", lambda model, ids: torch.arange(1, ids.shape[1]) * 0.1)
    found = suite.curve(model, token_ids(2, 24), suite.Patch())
    assert found == pytest.approx([math.exp(0.4), math.exp(1.15), math.exp(1.95)])
    assert suite.part(found, 8, 24) == pytest.approx(math.exp(1.55))


def test_ways_differ_only_after_eviction(model):
    curves = suite.measure(model, token_ids(2, 64))
    full, *others = curves.values()
    for other in others:
        assert other[:2] == pytest.approx(full[:2], rel=1e-4)
        assert other[3:] != pytest.approx(full[3:], rel=1e-4)
    assert others[0][3:] != pytest.approx(others[1][3:], rel=1e-4)


def test_a_small_run(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(suite.smollm2, "load", lambda window: (model, None))
    monkeypatch.setattr(suite, "book", SimpleNamespace(token_ids=lambda _, count: token_ids(count)))
    command = ["perplexity_by_position", "--segments", "2", "--tokens", "32", "--rows", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    suite.main()
    found = json.loads((tmp_path / "perplexity_by_position.json").read_text())
    assert list(found["perplexity"]) == list(suite.WAYS)
    assert all(len(values) == 4 for values in found["perplexity"].values())
    assert (tmp_path / "perplexity_by_position.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("from there on") == 4
    monkeypatch.setattr(sys, "argv", [*command, "--tokens", "30"])
    with pytest.raises(SystemExit):
        suite.main()
    assert "expected a multiple of 8 above 16" in capsys.readouterr().err
