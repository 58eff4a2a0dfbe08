"""The benchmarks of a training step and of the loss of a head: rows, checks, goals."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("matplotlib")

from bench.cases.training import STEPS_FULL, HeadCase, StepCase
from bench.harness import rows
from bench.harness.comparison import OWN, Budget
from bench.harness.report import goals, training_goals
from bench.harness.report.training_goals import HEAD, STEP, TRAINING
from bench.suites import loss_head, training_step

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")

BUDGET = Budget(rounds=2, seconds=0.0, peer_seconds=1.0)
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2,
    "sliding_window": None, "tie_word_embeddings": True,
}  # fmt: skip


def model_and_ids(case):
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES))
    return model, torch.randint(5, 64, (1, case.seqlen))


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16 autocast"])
def test_rows_of_a_step(autocast):
    case, said = StepCase(200, 3, autocast, window=20, sinks=3), []
    made = training_step.step_rows(case, *model_and_ids(case), BUDGET, said.append)
    assert [row.provider for row in made] == [OWN, training_goals.MASK, training_goals.SDPA, "default"]
    assert all(row.check.passed and row.timing.rounds == 2 for row in made) and len(said) == 4
    assert {rows.to_json(row)["dtype"] for row in made} == {"bfloat16" if autocast else "float32"}
    assert made[0].ratios.keys() == {training_goals.MASK, training_goals.SDPA, "default"}


def test_a_wrong_window_is_found(monkeypatch):
    case = StepCase(200, 3, False, window=20, sinks=3)
    monkeypatch.setattr(
        StepCase, "mask", lambda self: torch.ones(1, 1, self.seqlen, self.seqlen).bool().tril()
    )
    with pytest.raises(AssertionError, match="lckernels: result 0 is off by"):
        training_step.step_rows(case, *model_and_ids(case), BUDGET)


def test_flops_of_a_step():
    """As torch counts transformers' own model under eager attention, where no key is outside the window."""
    from torch.utils.flop_counter import FlopCounterMode

    case = StepCase(30, 3, False, window=30, sinks=0)
    model, ids = model_and_ids(case)
    stock = training_step._stock(model, case)
    stock.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counted:
        stock.model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()
    # Eager attention has 8 products of all pairs; ours 9 of the visible ones, with q.k again in the backward.
    attention = 3 * 4 * 2 * 8 * (9 * (30 * 31 // 2) - 8 * 30 * 30)
    again = 3 * 2 * 30 * 32 * 48  # the last product of a layer, which torch does not run again
    head = 3 * 2 * 30 * 64 * 32
    assert case.flops(model) == counted.get_total_flops() + attention + again + head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_the_head(dtype):
    made = loss_head.head_rows(HeadCase(300, 70, 16, dtype), BUDGET, lambda _: None)
    assert [row.provider for row in made] == [OWN, training_goals.LOGITS]
    assert all(row.check.passed and row.timing.rounds == 2 for row in made)
    assert {rows.to_json(row)["op"] for row in made} == {HEAD}


def test_a_wrong_loss_is_found(monkeypatch):
    right = loss_head.linear_cross_entropy

    def wrong(states, weight, bias, labels):
        return right(states, weight, bias, labels.roll(1))

    monkeypatch.setattr(loss_head, "linear_cross_entropy", wrong)
    with pytest.raises(AssertionError, match="lckernels: result 0 is off by"):
        loss_head.head_rows(HeadCase(300, 70, 16, torch.float32), BUDGET)


def stored(op, provider, extra_bytes, ratios, seqlen=8192):
    return {
        "suite": "training", "op": op, "provider": provider, "dtype": "float32", "direction": TRAINING,
        "shape": {"seqlen": seqlen}, "ratios": ratios, "extra_bytes": extra_bytes,
    }  # fmt: skip


def test_goals():
    found = [
        stored(STEP, OWN, 100, {"sdpa_mask": 2.5, "sdpa": 1.9, "default": 2.1}),
        stored(STEP, "default", 150, {}),
        stored(STEP, "sdpa", 300, {}),
        stored(STEP, OWN, 100, {"sdpa_mask": 1.0}, seqlen=2048),
        stored(HEAD, OWN, 10, {"cross_entropy": 0.8}),
        stored(HEAD, "cross_entropy", 90, {}),
    ]
    lines = [line.strip("| ").split(" | ") for line in goals.table(found, training_goals.GOALS)[2:]]
    shown = [(line[3], line[6]) for line in lines if line[1] == "float32"]
    assert shown == [
        ("2.50", "yes"), ("1.90", "no"), ("2.10", "yes"), ("1.50", "no"), ("3.00", "yes"), ("0.80", "yes"),
        ("9.00", "no"),
    ]  # fmt: skip
    assert (8192, 30) in {(case.seqlen, case.layers) for case in STEPS_FULL}
