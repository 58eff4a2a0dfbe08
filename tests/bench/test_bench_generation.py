"""The benchmark of generation: plain steps against transformers, rows, goals."""

# ruff: noqa: E402
from dataclasses import replace

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from bench.cases.generation import CACHED, PATCHES, PREFILL_FULL, SINKS, WINDOW, Patch, PrefillCase
from bench.harness import rows
from bench.harness.comparison import OWN, UNPACKED, Budget
from bench.harness.report import generation_goals, goals
from bench.peers.decode import plain_step, states_of
from bench.suites import generation, prefill

BUDGET = Budget(rounds=2, seconds=0.0, peer_seconds=1.0, call_seconds=60.0)
PLACES = (5, 9, 60)  # a window of 8 and 2 sink tokens: all visible, the last with all, most evicted
SMALL = tuple(
    replace(patch, window=patch.window and 8, sink_tokens=patch.sink_tokens and 2) for patch in PATCHES
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=None, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def token_ids(length: int) -> torch.Tensor:
    return torch.randint(1, 50, (1, length), generator=torch.Generator().manual_seed(0))


def test_a_plain_step_is_that_of_the_whole_sequence(model):
    """In one layer the visible keys do not depend on the window: a mask over the whole row is the same."""
    one = transformers.AutoModelForCausalLM.from_config(
        transformers.MistralConfig(**model.config.to_dict() | {"num_hidden_layers": 1}),
        attn_implementation="eager",
    ).eval()
    ids = token_ids(31)
    states, last = states_of(one, ids, 30), ids[:, 30:]
    for window, sinks in ((None, None), (8, 2), (8, None), (40, 2)):
        reach = 31 if window is None else window
        places = torch.arange(31)
        hidden = (places < 31 - reach) & (places >= (sinks or 0))
        mask = torch.zeros(1, 1, 31, 31).masked_fill(hidden, torch.finfo(torch.float32).min)
        with torch.no_grad():
            want = one(ids, attention_mask=mask).logits[:, -1:]
        found = plain_step(one, states, last, Patch(window, sinks))
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_keys_are_repeated(model):
    states = states_of(model, token_ids(20), 50)
    assert len(states) == 2
    for x in (x for pair in states for x in pair):
        assert x.shape == (1, 2, 50, 8)
        assert torch.equal(x[:, :, 20:40], x[:, :, :20]) and torch.equal(x[:, :, 40:], x[:, :, :10])


def test_decode_rows(model):
    said = []
    made = generation.decode_rows(model, token_ids(20), SMALL, PLACES, BUDGET, said.append)
    assert len(made) == 2 * len(PLACES) * len(SMALL) and len(said) == len(PLACES) * (len(SMALL) + 1)
    assert [row.provider for row in made[:2]] == [OWN, "sdpa"]
    assert all(row.check.passed and row.timing.rounds == 2 for row in made)
    # The stock model's result is another one where the window hides keys.
    peers = [row for row in made if row.provider == "sdpa"]
    assert [bool(row.note) for row in peers] == [False] * 4 + [False] * 4 + [False, True, True, True]
    stored = [rows.to_json(row) for row in made]
    assert {row["suite"] for row in stored} == {"generation"}
    shapes = [str(row.shape) for row in made if row.provider == OWN]
    assert len(set(shapes)) == len(shapes)


@pytest.mark.parametrize("changed", [{"window": 9}, {"sink_tokens": 3}, {"positions": "absolute"}])
def test_a_wrong_window_is_found(model, monkeypatch, changed):
    patch = Patch(8, 2, "cache")
    options = patch.options() | changed
    monkeypatch.setattr(Patch, "options", lambda self: options)
    with pytest.raises(AssertionError, match=r"60 tokens, patch.*: result 0 is off by"):
        generation.decode_rows(model, token_ids(20), [patch], PLACES[2:], BUDGET, lambda line: None)


def test_prefill_rows(model, monkeypatch):
    monkeypatch.setattr(prefill, "_PEERS", {"sdpa": "sdpa"})  # the compiler of flex takes a minute
    case, said = PrefillCase(70, 2, window=16), []
    base = transformers.MistralModel(
        transformers.MistralConfig(**model.config.to_dict() | {"sliding_window": 16})
    ).eval()
    made = prefill.prefill_rows(case, base, token_ids(70), BUDGET, said.append)
    assert [row.provider for row in made] == [OWN, UNPACKED, "sdpa"] and not made[0].left_out
    assert all(row.check.passed for row in made)
    assert made[0].extra_bytes is None or made[0].extra_bytes >= 0
    assert rows.to_json(made[0])["shape"] == {"seqlen": 70, "layers": 2, "window": 16}
    assert case.flops(1000, 4, 8) > case.flops(0, 4, 8) > 0
    with pytest.raises(AssertionError, match="lckernels: result 0 is off by"):
        prefill.prefill_rows(replace(case, window=15), base, token_ids(70), BUDGET, said.append)


def stored(op, shape, seconds=1.0, provider=OWN, **ratios):
    return {
        "suite": "generation", "op": op, "provider": provider, "dtype": "float32", "direction": "decode",
        "shape": shape, "ratios": ratios, "extra_bytes": 100 if provider == OWN else 250,
        "timing": {"median": seconds}, "commit": "0123456789ab", "dirty": False,
        "date": "2026-11-30T10:00:00",
        "machine": {"cpu": "A", "cores": 2, "threads": 2, "isa": "avx2"},
    }  # fmt: skip


def test_goals():
    packed, exact = Patch(WINDOW, SINKS, linear="packed"), Patch()
    long = PREFILL_FULL[-1].shape()
    found = [
        stored("decode_step", packed.shape(32768, 30), 0.05, sdpa=8.0),
        stored("decode_step", packed.shape(2048, 30), 0.04, sdpa=1.5),
        stored("decode_step", replace(packed, linear=None).shape(32768, 30), 0.5, sdpa=2.0),
        stored("decode_step", exact.shape(64, 30), sdpa=1.01),
        stored("decode_step", exact.shape(1028, 30), sdpa=0.97),
        stored("prefill", long, flex=1.5),
        stored("prefill", long, provider="flex"),
    ]
    lines = [line.strip("| ").split(" | ") for line in goals.table(found, generation_goals.GOALS)[2:]]
    assert [(line[3], line[6]) for line in lines] == [
        ("8.00", "yes"), ("0.80", "no"), ("1.01", "yes"), ("0.97", "no"), ("1.50", "yes"), ("2.50", "yes"),
    ]  # fmt: skip
    assert goals.table([], generation_goals.GOALS)[2].count("not measured") == 1
    assert {64, 1028, 2048, 32768} <= set(CACHED)
    assert (long["seqlen"], long["layers"], WINDOW, SINKS) == (32768, 30, 1024, 4)
