"""recompute=True under DDP and FSDP2 in two gloo processes: accumulation, unused parameters, uneven rows."""

# ruff: noqa: E402
import contextlib

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.encoder_models import SIZES, WIDE, token_ids
from helpers.processes import in_two_processes
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lckernels

SIZE = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2, "num_labels": 3}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Of each rank: the row of the first step, that of the second.
STEPS = ((100, 40), (70, 20))


def classifier(recompute):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZE, **NO_DROPOUT)).train()
    model.unused = nn.Linear(3, 3)
    lckernels.lengthen(model, max_tokens=32, overlap=7, recompute=recompute)
    return model


def loss(model, length):
    labels = torch.tensor([length % 3])
    return model(input_ids=token_ids(length)[None], labels=labels).loss


def ddp(model):
    return DistributedDataParallel(model, find_unused_parameters=True)


def ddp_without_search(model):
    del model.unused
    return DistributedDataParallel(model)


def fsdp2(model):
    del model.unused
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    for module in (*model.bert.encoder.layer, model):
        fully_shard(module, mesh=mesh)
    return model


WRAPPERS = {"DDP, unused parameters": ddp, "DDP": ddp_without_search, "FSDP2": fsdp2}


def accumulated(model, lengths):
    """The gradients after two steps, of which the first does not synchronize."""
    is_ddp = isinstance(model, DistributedDataParallel)
    if not is_ddp:
        model.set_requires_gradient_sync(False)
    with model.no_sync() if is_ddp else contextlib.nullcontext():
        loss(model, lengths[0]).backward()
    if not is_ddp:
        model.set_requires_gradient_sync(True)
    loss(model, lengths[1]).backward()
    grads = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    found = {name: grad for name, grad in grads.items() if grad is not None}
    return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in found.items()}


def of_rank(rank):
    return {name: accumulated(wrap(classifier(True)), STEPS[rank]) for name, wrap in WRAPPERS.items()}


def test_two_processes(tmp_path):
    model = classifier(False)
    for length in (length for lengths in STEPS for length in lengths):
        (loss(model, length) / 2).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert len(expected) > 30
    for found in in_two_processes(of_rank, tmp_path):
        for grads in found.values():
            assert {name for name in grads if "unused" not in name} == set(expected)
            for name, grad in expected.items():
                torch.testing.assert_close(grads[name], grad, rtol=1e-5, atol=1e-6)
