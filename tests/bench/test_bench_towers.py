"""The benchmark of vision towers: its rows, its check, its goal."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from bench.cases.towers import ATTENTION, FORWARD, LAYER, MODEL, TOWERS_FULL, TRAINING, TowerCase
from bench.harness import rows
from bench.harness.comparison import OWN, Budget
from bench.harness.report import goals, tower_goals
from bench.suites.towers import tower_rows

SIZES = {"side": 10, "window": 4, "heads": 2, "dim": 32, "intermediate": 48}
BUDGET = Budget(rounds=2, seconds=0.0, peer_seconds=1.0)


@pytest.mark.parametrize("direction", [FORWARD, TRAINING])
@pytest.mark.parametrize("op", [ATTENTION, LAYER, MODEL])
def test_rows(op, direction):
    said = []
    made = tower_rows(TowerCase(op, direction, **SIZES), BUDGET, said.append)
    assert [row.provider for row in made] == [OWN, "default"]
    assert all(row.check.passed and row.timing.rounds == 2 for row in made)
    assert {rows.to_json(row)["direction"] for row in made} == {direction}
    assert len(said) == 2


def test_a_wrong_window_is_found(monkeypatch):
    from lckernels.hf import calls

    monkeypatch.setattr(calls, "packed_layout", lambda layout, *options: layout)
    with pytest.raises(AssertionError, match="lckernels: result 0 is off by"):
        tower_rows(TowerCase(ATTENTION, FORWARD, **SIZES), BUDGET)


def test_flops():
    """Of all products, as torch counts them in transformers' own layer."""
    from torch.utils.flop_counter import FlopCounterMode

    case = TowerCase(LAYER, FORWARD, **SIZES)
    tower, _ = case.build()
    tower.set_attn_implementation("eager")
    bounds = torch.tensor([0, *case.windows()]).cumsum(0).int()
    angles = torch.ones(100, 16)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        tower.blocks[0].attn(torch.ones(100, 32), cu_seqlens=bounds, position_embeddings=(angles, angles))
    assert case.flops() == counted.get_total_flops()


def test_the_windows_are_the_towers():
    from transformers.vision_utils import get_vision_window_index

    case = TowerCase(MODEL, FORWARD, **SIZES)
    _, inputs = case.build()
    _, bounds = get_vision_window_index(
        inputs["grid_thw"], spatial_merge_size=2, window_size=4 * 14, patch_size=14
    )
    assert sorted(bounds.diff().tolist()) == sorted(case.windows())


def test_goal():
    row = {
        "suite": "towers", "op": ATTENTION, "provider": OWN, "dtype": "float32", "direction": FORWARD,
        "shape": {"seqlen": 4096}, "ratios": {"default": 1.9}, "extra_bytes": 1,
    }  # fmt: skip
    (line,) = [line.strip("| ").split(" | ") for line in goals.table([row], tower_goals.GOALS)[2:]]
    assert (line[3], line[6]) == ("1.90", "no")
    assert (ATTENTION, FORWARD) in {(case.op, case.direction) for case in TOWERS_FULL}
