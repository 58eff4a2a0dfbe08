"""transformers' Trainer on a lengthened model: training, evaluation, checkpoints, the best one at the end."""

# ruff: noqa: E402
import json

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from helpers.encoder_models import CLS, SEP, SIZES, WIDE
from helpers.word_tokenizer import word_tokenizer, words

import lckernels

SIZE = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2, "num_labels": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HEADS = ("BertForSequenceClassification", "BertForTokenClassification")


def made(head, lengthened=True):
    torch.manual_seed(0)
    model = getattr(transformers, head)(transformers.BertConfig(**SIZE, **NO_DROPOUT))
    tokenizer = word_tokenizer()
    if lengthened:
        lckernels.lengthen(model, tokenizer)
    return model, tokenizer


def rows(head, tokenizer, lengths):
    """Texts whose class is in their last words, or whose words have classes by their ids."""
    data = []
    for i, length in enumerate(lengths):
        row = dict(tokenizer(f"{words(length - 20, i)} " + f"w{5 + i % 3} " * 20))
        ids = row["input_ids"]
        of_words = [-100, *(x % 3 for x in ids[:-2]), -100]
        data.append({**row, "labels": i % 3 if head == HEADS[0] else of_words})
    return data


def trainer(model, tokenizer, head, folder, data, **options):
    kind = (
        transformers.DataCollatorWithPadding
        if head == HEADS[0]
        else transformers.DataCollatorForTokenClassification
    )
    arguments = transformers.TrainingArguments(
        folder, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=5e-3, seed=0,
        **{"per_device_train_batch_size": 2, "per_device_eval_batch_size": 3, **options},
    )  # fmt: skip
    return transformers.Trainer(
        model,
        arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=kind(tokenizer),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("head", HEADS)
def test_rows_of_one_chunk_train_as_before(head, tmp_path):
    trained = []
    for lengthened in (False, True):
        model, tokenizer = made(head, lengthened)
        data = rows(head, tokenizer, (25, 24, 28, 21))
        trainer(model, tokenizer, head, tmp_path, data, max_steps=4, save_strategy="no").train()
        trained.append(model.state_dict())
    assert all(torch.equal(*pair) for pair in zip(*(x.values() for x in trained), strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_long_rows(head, tmp_path):
    model, tokenizer = made(head)
    data = rows(head, tokenizer, [40 + 9 * i for i in range(6)])
    run = trainer(
        model, tokenizer, head, tmp_path / "run", data, num_train_epochs=8, gradient_accumulation_steps=1,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, save_total_limit=2,
    )  # fmt: skip
    before = run.evaluate()["eval_loss"]
    run.train()
    after = run.evaluate()["eval_loss"]
    assert after < 0.9 * before
    assert after == pytest.approx(run.state.best_metric, rel=1e-6)
    # The best checkpoint is the model's, and that of a model which is not lengthened.
    best = type(model).from_pretrained(run.state.best_model_checkpoint)
    assert best.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(*x) for x in zip(best.state_dict().values(), model.state_dict().values(), strict=True)
    )
    with open(f"{run.state.best_model_checkpoint}/tokenizer_config.json") as file:
        assert json.load(file)["model_max_length"] == 32
    # The loss of the evaluation is that of the head on merged states.
    lckernels.lengthen(best, word_tokenizer())
    batches = [run.data_collator(data[i : i + 3]) for i in (0, 3)]
    with torch.no_grad():
        expected = sum(best.eval()(**batch).loss.item() for batch in batches) / 2
    assert after == pytest.approx(expected, rel=1e-5)
    predicted = run.predict(data).predictions
    longest = max(len(row["input_ids"]) for row in data)
    assert predicted.shape == ((6, 3) if head == HEADS[0] else (6, longest, 3))


def test_a_run_continues_from_a_checkpoint(tmp_path):
    head, lengths = HEADS[0], (40, 70, 100, 55)
    model, tokenizer = made(head)
    data = rows(head, tokenizer, lengths)
    options = {"max_steps": 4, "save_steps": 2, "save_strategy": "steps"}
    trainer(model, tokenizer, head, tmp_path, data, **options).train()
    other, tokenizer = made(head)
    run = trainer(other, tokenizer, head, tmp_path, data, **options)
    run.train(resume_from_checkpoint=f"{tmp_path}/checkpoint-2")
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated")
def test_gradient_checkpointing_of_the_trainer(tmp_path):
    trained = []
    for checkpointing in (False, True):
        model, tokenizer = made(HEADS[0])
        data = rows(HEADS[0], tokenizer, (40, 70, 100, 55))
        options = {"max_steps": 3, "save_strategy": "no", "gradient_checkpointing": checkpointing}
        run = trainer(model, tokenizer, HEADS[0], tmp_path, data, **options)
        run.train()
        trained.append(list(model.parameters()))
    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def masked_lm():
    torch.manual_seed(0)
    ids = {"bos_token_id": CLS, "cls_token_id": CLS, "eos_token_id": SEP, "sep_token_id": SEP}
    sizes = {**SIZES, **WIDE, **ids, "max_position_embeddings": 32, "local_attention": 8}
    config = transformers.ModernBertConfig(**sizes, initializer_range=0.2)
    return transformers.ModernBertForMaskedLM(config)


def test_the_number_of_items_reaches_the_head():
    """Of heads that use it: the loss is the sum over the labels, divided by the number given."""
    model, tokenizer = masked_lm().eval(), word_tokenizer()
    lckernels.lengthen(model, tokenizer)
    inputs = tokenizer(words(90), return_tensors="pt")
    labels = inputs["input_ids"].clone()
    labels[0, ::3] = -100
    with torch.no_grad():
        mean = model(**inputs, labels=labels).loss
        scaled = model(**inputs, labels=labels, num_items_in_batch=1000).loss
    count = int((labels != -100).sum())
    torch.testing.assert_close(scaled, mean * count / 1000)


def test_accumulated_gradients_are_those_of_one_batch(tmp_path):
    """With a head that uses the number of items; batches of 4 rows, and of 2 rows twice."""
    trained = []
    for size, steps in ((4, 1), (2, 2)):
        model, tokenizer = masked_lm(), word_tokenizer()
        lckernels.lengthen(model, tokenizer)
        texts = (tokenizer(words(n, n)) for n in (40, 80, 25, 60))
        data = [{**row, "labels": [-100, *row["input_ids"][1:]]} for row in texts]
        arguments = transformers.TrainingArguments(
            tmp_path, report_to=[], use_cpu=True, disable_tqdm=True, max_steps=1, save_strategy="no",
            learning_rate=0.1, optim="sgd", max_grad_norm=0, per_device_train_batch_size=size,
            gradient_accumulation_steps=steps, train_sampling_strategy="sequential",
        )  # fmt: skip
        collator = transformers.DataCollatorForTokenClassification(tokenizer)
        transformers.Trainer(model, arguments, train_dataset=data, data_collator=collator).train()
        trained.append([p.detach().clone() for p in model.parameters()])
    start = list(masked_lm().parameters())
    for one, two in zip(*trained, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert max((one - before).abs().max() for one, before in zip(trained[0], start, strict=True)) > 1e-3


def test_accumulated_batches_have_the_gradient_of_one_batch(tmp_path):
    # Without the attribute, Trainer leaves the division to the head, whose loss is a mean (docs/lengthen.md).
    def update(k, **attributes):
        model, tokenizer = made(HEADS[0])
        for name, value in attributes.items():
            setattr(model, name, value)
        before = [x.detach().clone() for x in model.parameters()]
        options = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
        options |= {"gradient_accumulation_steps": k, "save_strategy": "no"}
        batch = {"per_device_train_batch_size": 4 // k}
        data = rows(HEADS[0], tokenizer, [40, 90, 25, 130])
        made_trainer = trainer(model, tokenizer, HEADS[0], tmp_path, data, **options, **batch)
        made_trainer.train()
        return torch.cat([(x - y).flatten() for x, y in zip(model.parameters(), before, strict=True)])

    whole = update(1)
    rounding = {"rtol": 1e-4, "atol": 4 * torch.finfo(torch.float32).eps}  # weights of norms are near 1
    assert whole.abs().max() > 1000 * rounding["atol"]
    torch.testing.assert_close(update(2, accepts_loss_kwargs=False), whole, **rounding)
    torch.testing.assert_close(update(2), 2 * whole, **rounding)
