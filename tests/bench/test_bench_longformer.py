"""The benchmark of Longformer: its rows, its check, its goals."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from bench.cases.longformer import ATTENTION, FORWARD, LONGFORMER_FULL, MODEL, TRAINING, LongformerCase
from bench.harness import rows
from bench.harness.comparison import OWN, Budget
from bench.harness.report import goals, longformer_goals
from bench.suites import longformer

SIZES = {"seqlen": 64, "window": 8, "heads": 3, "dim": 24, "intermediate": 32}
BUDGET = Budget(rounds=2, seconds=0.0, peer_seconds=1.0)


@pytest.mark.parametrize("direction", [FORWARD, TRAINING])
@pytest.mark.parametrize("op", [ATTENTION, MODEL])
def test_rows(op, direction):
    said = []
    made = longformer.longformer_rows(LongformerCase(op, direction, **SIZES), BUDGET, said.append)
    assert [row.provider for row in made] == [OWN, "default"]
    assert all(row.check.passed and row.timing.rounds == 2 for row in made)
    assert {rows.to_json(row)["direction"] for row in made} == {direction}
    assert len(said) == 2


def test_a_wrong_window_is_found(monkeypatch):
    from lckernels.hf.families import longformer as family

    mask_of_keys = family.mask_of_keys
    monkeypatch.setattr(
        family, "mask_of_keys", lambda valid, length, window: mask_of_keys(valid, length, (window[0], 3))
    )
    with pytest.raises(AssertionError, match="lckernels: result 0 is off by"):
        longformer.longformer_rows(LongformerCase(ATTENTION, FORWARD, **SIZES, global_tokens=0), BUDGET)


def test_flops():
    """Of the products with weights, as torch counts them in transformers' own model."""
    from torch.utils.flop_counter import FlopCounterMode

    case = LongformerCase(MODEL, FORWARD, layers=2, **SIZES, global_tokens=0)
    model, inputs = case.build()
    with FlopCounterMode(display=False, depth=6) as counted, torch.no_grad():
        model(**inputs)
    linear = counted.get_flop_counts()["Global"][torch.ops.aten.addmm]
    pairs = sum(min(i + 4, 63) - max(i - 4, 0) + 1 for i in range(64))
    assert case.flops() == linear + 2 * pairs * 4 * 24


def stored(provider, op, direction, ratio, extra_bytes):
    return {
        "suite": "longformer", "op": op, "provider": provider, "dtype": "float32", "direction": direction,
        "shape": {"seqlen": 4096}, "ratios": {"default": ratio}, "extra_bytes": extra_bytes,
    }  # fmt: skip


def test_goals():
    found = [
        stored(OWN, ATTENTION, FORWARD, 5.5, 1),
        stored(OWN, MODEL, FORWARD, 1.5, 100),
        stored("default", MODEL, FORWARD, 0.6, 500),
        stored(OWN, MODEL, TRAINING, 2.0, 1),
    ]
    lines = [line.strip("| ").split(" | ") for line in goals.table(found, longformer_goals.GOALS)[2:]]
    assert [(line[3], line[6]) for line in lines] == [
        ("5.50", "yes"), ("1.50", "no"), ("2.00", "yes"), ("5.00", "yes"),
    ]  # fmt: skip
    timed = {(case.op, case.direction) for case in LONGFORMER_FULL}
    assert {(ATTENTION, FORWARD), (MODEL, FORWARD), (MODEL, TRAINING)} <= timed
