"""The benchmark of T5: its plain encoder against transformers', its rows, its goals."""

# ruff: noqa: E402
from dataclasses import replace

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from helpers.bench_clock import Clock

from bench.cases.attention import AttentionCase
from bench.cases.t5 import FULL, T5_FULL, T5Case
from bench.harness import rows
from bench.harness.comparison import OWN, Budget
from bench.harness.report import goals, t5_goals
from bench.peers import t5
from bench.suites import cross_attention, t5_encoder

# A window of 2 * 10 + 1 tokens, which ends within the row, and buckets beyond their largest distance.
CASE = T5Case(301, 2, window=20, heads=3, head_dim=8, dim=32, intermediate=48)
BUDGET = Budget(rounds=2, seconds=0.0, peer_seconds=1.0)


@pytest.mark.parametrize("block_scores", [2**25, 1])
@pytest.mark.parametrize("window", [FULL, (10, 10), (3, 0)])
def test_the_plain_encoder_is_that_of_transformers(monkeypatch, block_scores, window):
    monkeypatch.setattr(t5, "_BLOCK_SCORES", block_scores)
    model, ids = CASE.build()
    model.set_attn_implementation("eager")
    distance = torch.arange(301) - torch.arange(301)[:, None]
    left, right = (301 if side < 0 else side for side in window)
    hidden = (distance < -left) | (distance > right)
    mask = torch.zeros(1, 1, 301, 301).masked_fill(hidden, torch.finfo(torch.float32).min)
    with torch.no_grad():
        want = model(input_ids=ids, attention_mask=mask).last_hidden_state
    found = t5.plain_states(model, ids, window, torch.float64)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), want, rtol=1e-5, atol=1e-5)


def test_rows():
    said = []
    made = t5_encoder.t5_rows(CASE, BUDGET, said.append)
    assert [(row.provider, row.shape["window"], bool(row.note)) for row in made] == [
        (OWN, "-1,-1", False),
        ("default", "-1,-1", False),
        (OWN, "10,10", False),
        ("default", "10,10", True),
    ]
    assert all(row.check.passed and row.timing.rounds == 2 for row in made)
    assert made[0].work > made[2].work > 0 and made[0].shape["default"] == "sdpa"
    assert [rows.to_json(row)["suite"] for row in made] == ["t5"] * 4
    assert len(said) == 3
    only = t5_encoder.t5_rows(replace(CASE, full=False), BUDGET, said.append)
    assert [row.shape["window"] for row in only] == ["10,10"] * 2


def test_a_wrong_bias_is_found(monkeypatch):
    from lckernels.hf import position_bias

    table = position_bias.table
    monkeypatch.setattr(position_bias, "table", lambda bias: (table(bias)[0], table(bias)[1] + 1))
    with pytest.raises(AssertionError, match=r"\(-1, -1\): result 0 is off by"):
        t5_encoder.t5_rows(CASE, BUDGET, print)


def test_flops():
    """Of the products, as torch counts them in transformers' own encoder."""
    from torch.utils.flop_counter import FlopCounterMode

    model, ids = CASE.build()
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=ids)
    assert counted.get_total_flops() == CASE.flops(FULL)
    assert CASE.flops((10, 10)) < CASE.flops(FULL)


def test_a_step_of_cross_attention():
    case = AttentionCase(130, (-1, -1), torch.float32, num_heads=3, num_kv_heads=3, head_dim=8, num_queries=1)
    made = cross_attention.cross_rows(Clock(), case, BUDGET)
    assert [row.provider for row in made] == [OWN, "sdpa"]
    assert made[0].direction == "decode" and made[0].work == 2 * 130 * 3 * 8 * 4


def stored(provider, seqlen, window, ratio, extra_bytes):
    return {
        "suite": "t5", "op": "T5_encoder", "provider": provider, "dtype": "float32", "direction": "forward",
        "shape": {"seqlen": seqlen, "window": window}, "ratios": {"default": ratio},
        "extra_bytes": extra_bytes,
    }  # fmt: skip


def test_goals():
    step = {"op": "windowed_attention", "direction": "decode", "dtype": "bfloat16", "ratios": {"sdpa": 1.1}}
    found = [
        stored(OWN, 8192, "-1,-1", 2.5, 100),
        stored("default", 8192, "-1,-1", 0.4, 900),
        stored(OWN, 8192, "256,256", 4.0, 100),
        stored(OWN, 16384, "256,256", 9.0, 100),
        stored(OWN, 8192, "-1,-1", 2.5, 100) | step,
    ]
    lines = [line.strip("| ").split(" | ") for line in goals.table(found, t5_goals.GOALS)[2:]]
    assert [(line[1], line[3], line[6] if len(line) > 6 else "") for line in lines] == [
        ("float32", "2.50", "yes"),
        ("float32", "9.00", "yes"),
        ("float32", "4.00", "no"),
        ("float32", "9.00", "yes"),
        ("float32", "not measured", ""),
        ("bfloat16", "1.10", "no"),
    ]
    timed = {(case.seqlen, case.full) for case in T5_FULL}
    assert {(8192, True), (16384, False)} <= timed
