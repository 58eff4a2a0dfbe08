"""Trainer in two gloo processes: the loss, weights and evaluation of one process with the doubled batch."""

# ruff: noqa: E402
from contextlib import nullcontext

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("peft")

from accelerate import Accelerator
from helpers.encoder_models import VOCAB
from helpers.language_models import causal
from helpers.processes import WORLD, in_two_processes
from helpers.trainer_runs import base, documents, read_all, trainer, without_dropout
from torch.utils.data import DataLoader

import lckernels
from lckernels.training import CausalChunks, document_losses, label_loss, token_loss

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]

WORDS = (40, 12, 100, 25, 70, 8, 31, 55)
TOKENS, ANSWERS, CHUNKS = "token classification", "question answering", "CausalChunks"
PER_LABEL = {"preprocess_logits_for_metrics": document_losses, "compute_metrics": token_loss}
STEP = {
    "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    "num_train_epochs": 2, "gradient_accumulation_steps": 2, "logging_steps": 1, "save_strategy": "no",
}  # fmt: skip


def model_of(name):
    if name == CHUNKS:
        return CausalChunks(causal("llama", vocab_size=VOCAB), 24, 8, recompute=True, max_tokens=48)
    model = without_dropout(base(name))
    lckernels.lengthen(model, recompute=True)
    return model


def trained(name, folder, batch):
    """The losses of four steps of SGD, the weights, and the loss of an evaluation, in fp64."""
    model, data = model_of(name), documents(TOKENS, WORDS)
    own = {**PER_LABEL, "compute_loss_func": label_loss}
    if name == CHUNKS:
        data = [{"input_ids": ids, "labels": ids} for ids in (row["input_ids"] for row in data)]
        own = {"compute_metrics": token_loss}
    made = trainer(model, TOKENS, folder, data, trainer=own, **STEP, per_device_train_batch_size=batch)
    made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    return losses, model.state_dict(), made.evaluate()["eval_loss"]


def evaluated(folder):
    """The loss of answers, of which one is past the end of its document, batch by batch of one document."""
    data = documents(ANSWERS, WORDS[:5])
    data[1]["start_positions"] = 30  # of 14 tokens; the other process has 42 at that time
    own = {"trainer": PER_LABEL, "per_device_eval_batch_size": 1}
    metrics = trainer(model_of(ANSWERS), ANSWERS, folder, data, **own).evaluate()
    return metrics["eval_loss"], metrics["eval_scored_tokens"]


def accelerated(batch):
    """The gradients of a step of accelerate, as in docs/training.md."""
    model, collate = model_of(TOKENS), transformers.DataCollatorForTokenClassification(read_all())
    loader = DataLoader(documents(TOKENS, WORDS), batch_size=batch, collate_fn=collate)
    accelerator = Accelerator(cpu=True)
    parallel, loader = accelerator.prepare(model, loader)
    batches = list(loader)
    items = accelerator.reduce(sum((batch["labels"] != -100).sum() for batch in batches))
    for number, batch in enumerate(batches, 1):
        labels = batch.pop("labels")
        with accelerator.no_sync(parallel) if number < len(batches) else nullcontext():
            loss = label_loss(parallel(**batch), labels, items)
            accelerator.backward(loss * accelerator.num_processes)
    return {name: x.grad for name, x in model.named_parameters()}


def of_rank(rank, folder):
    assert torch.distributed.get_world_size() == WORLD
    runs = {name: trained(name, folder, 1) for name in (TOKENS, CHUNKS)}
    return runs, evaluated(folder), accelerated(1)


def test_two_processes(tmp_path):
    runs, answers, grads = in_two_processes(of_rank, tmp_path, tmp_path / "two")[0]
    for name, (losses, weights, loss) in runs.items():
        one = trained(name, tmp_path / "one", WORLD)
        assert losses == pytest.approx(one[0], rel=1e-6) and len(losses) == 4
        assert losses[0] != pytest.approx(losses[1], rel=1e-3)
        same(weights, one[1])
        assert loss == pytest.approx(one[2], rel=1e-6)
    assert answers == pytest.approx(evaluated(tmp_path / "one"), rel=1e-6)
    assert answers[1] == 9  # two of each document, without the one past the end
    same(grads, accelerated(len(WORDS)))


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=1e-6, atol=1e-6)
