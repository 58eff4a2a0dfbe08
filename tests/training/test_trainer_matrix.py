"""Trainer as it is on lengthened models: each task with each method of tuning.

A case trains, evaluates and saves; a second run continues from a checkpoint; what was saved is loaded by PEFT
or transformers alone. `--trainer-table PATH` writes the table of docs/training.md.
"""

# ruff: noqa: E402
import inspect
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")

from helpers import trainer_table
from helpers.trainer_runs import (
    METHODS,
    NOT_POSSIBLE,
    TASKS,
    VIRTUAL,
    Allocate,
    base,
    documents,
    loaded,
    made,
    outputs,
    trainer,
    tuned,
)
from helpers.trainer_table import Table
from helpers.written_tables import written

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]

# One case of each task and of each method; the others are slow.
QUICK = {
    ("token classification", "LoRA"), ("sequence classification", "AdaLoRA"), ("question answering", "IA3"),
    ("seq2seq (T5)", "prefix tuning"), ("token classification", "full fine-tuning"),
    ("sequence classification", "prompt tuning"), ("seq2seq (T5)", "bottleneck adapters"),
}  # fmt: skip
CASES = [
    pytest.param(task, method, marks=() if (task, method) in QUICK else pytest.mark.slow)
    for task in TASKS
    for method in METHODS
]


@pytest.fixture(scope="module")
def table(request):
    yield from written(Table(), request, "--trainer-table")


@pytest.mark.parametrize("task, method", CASES)
def test_trainer(task, method, table, tmp_path, one_thread):
    results = table.results.setdefault(task, {})
    results[method] = trainer_table.FAILED
    if (task, method) in NOT_POSSIBLE:
        check_the_error(task, method, tmp_path)
    else:
        check_training(task, method, tmp_path)
    results[method] = trainer_table.expected(task, method)


def check_training(task, method, folder):
    data, own = documents(task), {"callbacks": [Allocate()]} if method == "AdaLoRA" else {}
    options = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "eval_strategy": "epoch"}
    model = made(task, method)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    run = trainer(model, task, folder, data, trainer=own, **options)
    run.train()
    moved = {name for name, x in model.named_parameters() if differs(x, before[name])}
    trained = {name for name in before if model.get_parameter(name).requires_grad}
    assert moved <= trained
    assert all("lora_E" in name for name in trained - moved)  # 0 again where AdaLoRA gave all ranks up
    predictions = run.predict(data)
    check_shapes(task, predictions.predictions, data, VIRTUAL if method == "prompt tuning" else 0)
    assert predictions.metrics["test_loss"] > 0

    checkpoint = str(folder / "checkpoint-2")
    if method == "AdaLoRA":
        for other in (made(task, method), tuned(base(task), task, method)):
            with pytest.raises(RuntimeError, match="size mismatch"):
                trainer(other, task, folder, data, **options).train(resume_from_checkpoint=checkpoint)
    else:
        other = made(task, method)
        again = trainer(other, task, folder, data, trainer=own, **options)
        again.train(resume_from_checkpoint=checkpoint)
        assert same_weights(model, other)
        assert logged(run) == logged(again)

    run.save_model(str(folder / "saved"))
    if isinstance(model, peft.PeftModel):
        assert (folder / "saved" / "adapter_config.json").exists()
    other = loaded(task, method, folder / "saved")
    # AdaLoRA's file is without the ranks that are 0: sums of fewer terms.
    rounding = {"rtol": 1e-5, "atol": 1e-5} if method == "AdaLoRA" else {"rtol": 0, "atol": 0}
    for ours, theirs in zip(outputs(model, task, data), outputs(other, task, data), strict=True):
        torch.testing.assert_close(ours, theirs, **rounding)


def differs(now, before):
    """AdaLoRA makes a parameter smaller when it has chosen ranks."""
    return now.shape != before.shape or not torch.equal(now, before)


def same_weights(one, two):
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in pairs)


def logged(run):
    """What both runs logged, without times."""
    names = ("step", "loss", "grad_norm", "eval_loss")
    return [{name: row[name] for name in names if name in row} for row in run.state.log_history[:-1]]


def check_shapes(task, predictions, data, virtual):
    """Predictions of documents of different lengths: padded to the longest one."""
    rows, longest = len(data), virtual + max(len(row["input_ids"]) for row in data)
    if task == "token classification":
        assert predictions.shape == (rows, longest, 3)
    elif task == "sequence classification":
        assert predictions.shape == (rows, 3)
    elif task == "question answering":
        assert [x.shape for x in predictions] == [(rows, longest)] * 2
    else:
        target = max(len(row["labels"]) for row in data)
        assert predictions[0].shape[:2] == (rows, target)
        assert predictions[1].shape[:2] == (rows, longest)  # the document's states


def check_the_error(task, method, folder):
    """The error comes before the first step, and PEFT's own also without lengthen."""
    error, _ = NOT_POSSIBLE[task, method]
    with pytest.raises(ValueError, match=error):
        trainer(made(task, method), task, folder, documents(task), max_steps=1).train()
    if method == "prompt tuning":
        plain = tuned(base(task), task, method)
        with pytest.raises(ValueError, match=error):
            trainer(plain, task, folder, documents(task, (12, 8)), max_steps=1).train()
    elif "cache" in inspect.signature(transformers.BertModel.forward).parameters:
        with pytest.raises(ValueError, match=r"past.key.values"):
            trainer(
                tuned(base(task), task, method), task, folder, documents(task, (12, 8)), max_steps=1
            ).train()


def test_the_documentation_has_every_case():
    """The table in docs/training.md is from a run of all cases in which nothing failed."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
    expected = {case: trainer_table.expected(*case) for case in trainer_table.needed()}
    assert trainer_table.rows(page) == expected


def test_positions_of_an_answer_count_virtual_tokens():
    """PEFT passes them on as they are, so position 0 is the first virtual token."""
    task = "question answering"
    model, data = made(task, "prompt tuning").eval(), documents(task, (12,))
    inputs = {name: torch.tensor([value]) for name, value in data[0].items()}
    out = model(**inputs)
    assert out.start_logits.shape[1] == VIRTUAL + len(data[0]["input_ids"])
    pairs = ((out.start_logits, inputs["start_positions"]), (out.end_logits, inputs["end_positions"]))
    expected = sum(torch.nn.functional.cross_entropy(*pair) for pair in pairs) / 2
    torch.testing.assert_close(out.loss, expected)


def test_the_table_requires_every_case():
    cases = trainer_table.needed()
    assert trainer_table.missing_cases(cases) == []
    assert trainer_table.missing_cases(cases[1:]) == [", ".join(cases[0])]
