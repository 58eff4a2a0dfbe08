"""Runs of Trainer on lengthened models: very long documents, grouping, early stopping, the best model."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")

from helpers.encoder_models import SIZES, WIDE
from helpers.trainer_runs import base, documents, made, read_all, read_any_length, trainer
from helpers.word_tokenizer import word_tokenizer

import lckernels

pytestmark = [pytest.mark.hf, pytest.mark.filterwarnings("ignore::FutureWarning")]

TOKENS, LORA = "token classification", "LoRA"


def test_documents_of_200_to_50000_tokens(tmp_path):
    """In one padded batch; a model of 512 positions, with recompute."""
    torch.manual_seed(0)
    sizes = {**SIZES, **WIDE, "num_hidden_layers": 1, "max_position_embeddings": 512, "num_labels": 3}
    model = transformers.BertForTokenClassification(transformers.BertConfig(**sizes))
    lckernels.lengthen(model, word_tokenizer(512), recompute=True)
    data = documents(TOKENS, (49_998, 198))
    before = [x.detach().clone() for x in model.parameters()]
    run = trainer(model, TOKENS, tmp_path, data, max_steps=1, save_strategy="no")
    run.train()
    assert not any(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))
    found = run.predict(data)
    assert found.predictions.shape == (2, 50_000, 3)
    with torch.no_grad():
        alone = model(**run.data_collator(data[1:])).logits
    torch.testing.assert_close(torch.from_numpy(found.predictions[1:, :200]), alone, rtol=1e-4, atol=1e-5)


class Recorder(transformers.DataCollatorForTokenClassification):
    """Keeps the tokens of the documents of each batch."""

    def __call__(self, features):
        self.__dict__.setdefault("batches", []).append([len(row["input_ids"]) for row in features])
        return super().__call__(features)


def test_group_by_length(tmp_path):
    """Batches of similar length; a run continues from the end of an epoch with the same bits."""
    data = documents(TOKENS, [10 + 7 * i for i in range(16)])
    options = {"train_sampling_strategy": "group_by_length", "num_train_epochs": 2, "save_strategy": "epoch"}

    def run(resume=None):
        model, recorder = made(TOKENS, LORA), Recorder(read_all())
        own = {"data_collator": recorder}
        trainer(model, TOKENS, tmp_path, data, trainer=own, **options).train(resume_from_checkpoint=resume)
        return model, recorder.batches

    model, batches = run()
    assert len(batches) == 16
    spread = sum(max(batch) - min(batch) for batch in batches)
    assert spread < 16 * 30  # of random pairs it is 16 * 40; the sampler sorts 4 documents at a time
    assert max(batches[0]) == 117  # the longest document first, so that memory fails early
    other, again = run(str(tmp_path / "checkpoint-8"))
    assert again == batches[8:]
    for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_early_stopping_and_the_best_model(tmp_path):
    """At a high rate the loss grows: training stops, and the best checkpoint's adapters are back."""
    task, epochs = "sequence classification", 8
    data = documents(task)
    stop = transformers.EarlyStoppingCallback(early_stopping_patience=2)
    model = made(task, LORA)
    run = trainer(
        model, task, tmp_path, data, num_train_epochs=epochs, learning_rate=2.0, eval_strategy="epoch",
        save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="eval_loss",
        trainer={"callbacks": [stop]},
    )  # fmt: skip
    run.train()
    assert run.state.epoch < epochs
    losses = [row["eval_loss"] for row in run.state.log_history if "eval_loss" in row]
    assert run.state.best_metric == min(losses) < losses[-1]
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-6)
    best = peft.PeftModel.from_pretrained(base(task), run.state.best_model_checkpoint)
    read_any_length(best, task)
    for ours, theirs in zip(model.state_dict().values(), best.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
