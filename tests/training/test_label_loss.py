"""label_loss in Trainer: accumulated batches of uneven documents give the step of one batch."""

# ruff: noqa: E402
import pytest
import torch
from torch.nn.functional import cross_entropy

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from helpers.trainer_runs import (
    SEQ2SEQ,
    TASKS,
    base,
    documents,
    read_all,
    read_any_length,
    trainer,
    without_dropout,
)

from lckernels.training import label_loss

pytestmark = pytest.mark.hf

WORDS = (40, 12, 100, 25)
ANSWERS = "question answering"


def stepped(task, folder, batch):
    """The weights after one step of SGD on all documents."""
    model = read_any_length(without_dropout(base(task)), task)
    options = {
        "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "max_steps": 1, "save_strategy": "no",
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": len(WORDS) // batch,
    }  # fmt: skip
    own = {"compute_loss_func": label_loss}
    if task == SEQ2SEQ:  # called without labels T5 requires the ids that its decoder reads
        own["data_collator"] = transformers.DataCollatorForSeq2Seq(read_all(), model=model)
    trainer(model, task, folder, documents(task, WORDS), trainer=own, **options).train()
    return model.state_dict()


@pytest.mark.parametrize("task", [task for task in TASKS if task != ANSWERS])
def test_accumulated_batches(task, tmp_path):
    before = base(task).double().state_dict()
    expected, found = (stepped(task, tmp_path, batch) for batch in (4, 1))
    assert max(float((x - before[name]).abs().max()) for name, x in expected.items()) > 1e-3
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outputs", [dict, lambda **out: transformers.utils.ModelOutput(out), tuple])
def test_forms_of_outputs(outputs):
    logits, labels = torch.randn(2, 5, 3), torch.randint(0, 3, (2, 5))
    labels[1, 2:] = -100
    out = (logits, torch.zeros(2)) if outputs is tuple else outputs(logits=logits)
    for shift, columns in ((False, slice(None)), (True, slice(1, None))):
        scored = logits[:, : logits.shape[1] - shift].flatten(0, 1), labels[:, columns].flatten()
        torch.testing.assert_close(label_loss(out, labels, shift=shift), cross_entropy(*scored))
        total = cross_entropy(*scored, reduction="sum")
        torch.testing.assert_close(label_loss(out, labels, torch.tensor(20), shift=shift), total / 20)


@pytest.mark.parametrize("items", [None, 0, torch.tensor(0), 7])
def test_no_label(items):
    logits = torch.randn(2, 5, 3, requires_grad=True)
    loss = label_loss({"logits": logits}, torch.full((2, 5), -100), items)
    loss.backward()
    assert loss == 0 and not logits.grad.any()


def test_bad_input():
    out, labels = {"logits": torch.zeros(2, 3)}, torch.zeros(2).long()
    with pytest.raises(TypeError, match="labels: got NoneType; expected int64 classes"):
        label_loss(out, None)
    for items in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"num_items_in_batch: got {items}"):
            label_loss(out, labels, items)
