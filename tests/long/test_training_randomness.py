"""Random numbers in training: what a seed fixes, the order of documents, BigBird's seed of numpy."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

import numpy as np
from helpers.encoder_models import SIZES, WIDE, token_ids
from helpers.row_models import make_rows_model

import lckernels

pytestmark = pytest.mark.hf

LENGTHS = (100, 60, 80, 40, 90, 70)


def classifier():
    torch.manual_seed(0)
    sizes = {**SIZES, **WIDE, "max_position_embeddings": 32, "num_labels": 3}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).train()


def step(overlap=6, recompute=False, **options):
    """The loss of a step with dropout, a gradient, and the next random number."""
    model = classifier()
    lckernels.lengthen(model, chunk_len=20, overlap=overlap, recompute=recompute, **options)
    torch.manual_seed(3)
    loss = model(input_ids=token_ids(100)[None], labels=torch.tensor([1])).loss
    loss.backward()
    return loss.item(), model.bert.pooler.dense.weight.grad[0, 0].item(), torch.rand(()).item()


def test_what_a_seed_fixes():
    """The same sizes give the same bits; another overlap, or another micro-batch, draws other numbers."""
    expected = step()
    assert step() == expected
    assert step(recompute=True) == expected
    assert step(overlap=7)[0] != expected[0] and step(max_tokens=20)[0] != expected[0]


def order_of_documents(overlap, folder):
    """The lengths of the documents of each batch of two epochs."""
    model, seen = classifier(), []
    lckernels.lengthen(model, chunk_len=20, overlap=overlap)

    def collate(rows):
        seen.append([len(row["input_ids"]) for row in rows])
        (row,) = rows
        return {"input_ids": row["input_ids"][None], "labels": torch.tensor([1])}

    arguments = transformers.TrainingArguments(
        folder, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", num_train_epochs=2,
        per_device_train_batch_size=1, seed=0, remove_unused_columns=False,
    )  # fmt: skip
    data = [{"input_ids": token_ids(n)} for n in LENGTHS]
    transformers.Trainer(model, arguments, train_dataset=data, data_collator=collate).train()
    return seen


def test_the_order_of_documents_depends_on_no_overlap(tmp_path):
    """Dropout draws from torch's generator, other numbers for each overlap; Trainer's order does not."""
    pytest.importorskip("accelerate")
    orders = [order_of_documents(overlap, tmp_path) for overlap in (2, 9)]
    assert orders[0] == orders[1]
    assert orders[0][:6] != orders[0][6:]


def big_bird():
    model = make_rows_model("big_bird").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_big_bird_with_recompute():
    """Blocks are drawn again from the same seed: the second run of a micro-batch has those of the first."""
    found = []
    for recompute in (False, True):
        model = big_bird()
        lckernels.lengthen(model, chunk_len=64, overlap=16, recompute=recompute, max_tokens=64)
        model(token_ids(300)[None]).last_hidden_state.square().sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    for ours, expected in zip(*reversed(found), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_big_bird_seeds_numpy():
    """transformers' own forward: numbers of numpy after a training step do not depend on those before."""
    model, ids, drawn = big_bird(), token_ids(100)[None], []
    for seed in (1, 2):
        np.random.seed(seed)
        model(ids)
        drawn.append(np.random.rand())
    assert drawn[0] == drawn[1]
    for seed in (1, 2):  # a generator of its own is not affected
        generator = np.random.default_rng(seed)
        model(ids)
        drawn.append(generator.random())
    assert drawn[2] != drawn[3]
    encoder = lckernels.LongEncoder(model, 64)  # the trial restores numpy's state
    np.random.seed(1)
    expected = np.random.rand()
    np.random.seed(1)
    lckernels.LongEncoder(model, 64)
    assert np.random.rand() == expected and encoder.chunk_len == 64
