"""CausalChunks: each token is scored once, by the chunk with the most tokens before it."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")

from helpers.language_models import (
    CAUSAL,
    WINDOW,
    batch,
    causal,
    gradients,
    largest_difference,
    token_ids,
)

from lckernels.training import CausalChunks, LossOutput

pytestmark = pytest.mark.hf

CONTEXT, OVERLAP = 12, 5


def by_token(model, ids, context, overlap):
    """The loss of each token of a document: of the first chunk that has the token before it."""
    last = len(ids) - 1 - context
    begins = [min(begin, last) for begin in range(0, last + context - overlap, context - overlap)]
    begins = begins if last > 0 else [0]
    logits = {b: model(input_ids=ids[None, b : b + context]).logits[0] for b in begins}
    losses = []
    for token in range(1, len(ids)):
        begin = next(b for b in begins if b <= token - 1 < b + context)
        losses.append(F.cross_entropy(logits[begin][token - 1 - begin].double(), ids[token]))
    return torch.stack(losses) if losses else torch.zeros(0, dtype=torch.float64)


@pytest.mark.parametrize("name", CAUSAL)
def test_loss_and_gradients_are_those_of_the_definition(name):
    model = causal(name)
    module = CausalChunks(model, CONTEXT, OVERLAP, max_tokens=40)
    documents = batch([40, 9, 13, 1, 27])
    losses = [
        by_token(model, token_ids(n, row), CONTEXT, OVERLAP) for row, n in enumerate([40, 9, 13, 1, 27])
    ]
    expected = torch.cat(losses).mean()
    found = module(**documents)
    assert type(found) is LossOutput and found.num_scored.tolist() == [39, 8, 12, 0, 26]
    # transformers casts logits to fp32 after some softcaps
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=0)
    assert largest_difference(gradients(found.loss, model), gradients(expected, model)) < 1e-6
    with torch.no_grad():
        found = module(**documents)
    sums = torch.stack([x.sum() for x in losses]).detach()
    torch.testing.assert_close(found.document_losses, sums, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("context, overlap", [(1, 0), (2, 1), (7, 0), (7, 6), (8, 3)])
def test_every_token_is_scored_once_whatever_the_length(context, overlap):
    module = CausalChunks(causal("llama"), context, overlap)
    lengths = [*range(1, 30)]
    assert module(**batch(lengths)).num_scored.tolist() == [n - 1 for n in lengths]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("length", [30, 61, 64])
def test_with_a_window_it_is_the_loss_of_the_whole_document(length, recompute):
    model = causal("mistral")
    ids = token_ids(length)[None]
    overlap = 2 * (WINDOW - 1)  # what two layers see
    logits = model(input_ids=ids).logits[0, :-1]
    whole = F.cross_entropy(logits, ids[0, 1:])
    found = CausalChunks(model, overlap + 8, overlap, max_tokens=40, recompute=recompute)(ids).loss
    torch.testing.assert_close(found, whole, rtol=1e-7, atol=0)  # rotary angles are fp32
    assert largest_difference(gradients(found, model), gradients(whole, model)) < 1e-6
    short = CausalChunks(model, overlap + 8, overlap - 2)(ids).loss  # the test can fail
    assert (short - whole).abs() > 1e-6 * whole


def test_padding_does_not_matter():
    module = CausalChunks(causal("mistral"), CONTEXT, OVERLAP)
    lengths = [33, 5, 20]
    right, left = batch(lengths), batch(lengths, left=True)
    single = [module(token_ids(n, row)[None]) for row, n in enumerate(lengths)]
    expected = sum(x.loss * x.num_scored.sum() for x in single) / sum(n - 1 for n in lengths)
    for found in (module(**right), module(**left), module(right["input_ids"], right["attention_mask"])):
        torch.testing.assert_close(found.loss, expected, rtol=1e-9, atol=0)


def test_ignored_labels_are_context():
    model = causal("llama")
    module = CausalChunks(model, CONTEXT, OVERLAP)
    documents = batch([40])
    keep = torch.arange(40)[None] % 3 == 0
    documents["labels"][~keep] = -100
    losses = by_token(model, documents["input_ids"][0], CONTEXT, OVERLAP)
    expected = losses[keep[0, 1:]].mean()
    found = module(**documents)
    assert found.num_scored.tolist() == [int(keep[0, 1:].sum())]
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=0)


def test_chunks_that_score_nothing_are_not_read():
    model = causal("llama")
    module = CausalChunks(model, CONTEXT, OVERLAP)
    documents = batch([60])
    documents["labels"][:, :-3] = -100
    read = []
    model.register_forward_hook(lambda *call: read.append(call[2].logits.shape), with_kwargs=False)
    module(**documents)
    assert [tuple(shape[:2]) for shape in read] == [(1, CONTEXT)]


@pytest.mark.parametrize("recompute", [False, True])
def test_nothing_to_score_is_zero_with_zero_gradients(recompute):
    model = causal("gpt2")
    module = CausalChunks(model, CONTEXT, OVERLAP, recompute=recompute)
    ignored = batch([20, 5])
    ignored["labels"][:] = -100
    empty = {**batch([4, 1]), "attention_mask": torch.zeros(2, 4, dtype=torch.long)}
    empty["labels"] = torch.full((2, 4), -100)
    none = {"input_ids": torch.zeros(2, 0, dtype=torch.long), "labels": torch.zeros(2, 0, dtype=torch.long)}
    for documents in (ignored, empty, none, batch([1, 1])):
        for items in (None, torch.tensor(0), 7):
            found = module(**documents, num_items_in_batch=items)
            assert found.loss == 0 and found.num_scored.tolist() == [0, 0]
            found.loss.backward()
            assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
            model.zero_grad()


def test_empty_documents_beside_others():
    module = CausalChunks(causal("llama"), CONTEXT, OVERLAP)
    documents = batch([30, 20])
    expected = module(**batch([30]))
    documents["attention_mask"][1] = 0
    documents["labels"][1] = -100
    found = module(**documents)
    assert found.num_scored.tolist() == [29, 0]
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recompute_has_the_gradients_of_stored_activations(dropout):
    model = causal("gpt2", resid_pdrop=dropout, embd_pdrop=dropout)
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        module = CausalChunks(model, CONTEXT, OVERLAP, recompute=recompute, max_tokens=30)
        loss = module(**batch([50, 17])).loss
        found.append((loss, gradients(loss, model)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)
    assert largest_difference(found[1][1], found[0][1]) < 1e-12


def test_recompute_stores_one_micro_batch():
    sizes = {}
    for recompute in (False, True):
        module = CausalChunks(causal("llama"), CONTEXT, OVERLAP, max_tokens=CONTEXT, recompute=recompute)
        stored = []

        def pack(x, stored=stored):
            stored.append(x.numel() * (x._base is None or x._base.numel() == x.numel()))
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            module(token_ids(300)[None])
        sizes[recompute] = sum(stored)
    assert sizes[True] < sizes[False] / 8


def test_a_step_of_several_batches_is_that_of_one():
    """num_items_in_batch: gradient accumulation over uneven documents."""
    model = causal("llama")
    module = CausalChunks(model, CONTEXT, OVERLAP)
    lengths = [50, 3, 21, 14]
    whole = module(**batch(lengths))
    items = whole.num_scored.sum()
    expected = gradients(whole.loss, model)
    for row, length in enumerate(lengths):
        module(token_ids(length, row)[None], num_items_in_batch=items).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert largest_difference(found, expected) < 1e-9
    for divisor in (int(items), float(items), items.double(), items[None, None]):
        found = module(**batch(lengths), num_items_in_batch=divisor).loss
        torch.testing.assert_close(found, whole.loss, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
def test_label_smoothing(name):
    model = causal(name)
    ids = token_ids(CONTEXT)[None]
    logits = model(input_ids=ids).logits[0, :-1].double()
    expected = F.cross_entropy(logits, ids[0, 1:], label_smoothing=0.1)
    found = CausalChunks(model, CONTEXT, OVERLAP, label_smoothing=0.1)(ids).loss
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_autocast(name):
    model = causal(name).float()
    ids = token_ids(CONTEXT)[None]
    exact = model(input_ids=ids, labels=ids).loss
    module = CausalChunks(model, CONTEXT, OVERLAP, recompute=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=ids, labels=ids).loss
        found = module(ids).loss
    assert found.dtype == torch.float32
    # transformers applies a softcap in bf16
    torch.testing.assert_close(found, expected, rtol=1e-5 if name == "llama" else 1e-3, atol=0)
    assert (found - exact).abs() > 0
    assert largest_difference(gradients(found, model), gradients(expected, model)) < 2e-2


def test_copies():
    module = CausalChunks(causal("tied"), CONTEXT, OVERLAP)
    expected = module(token_ids(30)[None]).loss
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied(token_ids(30)[None]).loss, expected, rtol=1e-12, atol=0)
        assert copied.state_dict().keys() == module.state_dict().keys()


def test_weights_without_values_at_construction():
    with torch.device("meta"):
        module = CausalChunks(causal("gemma2"), CONTEXT, OVERLAP)
    model = causal("gemma2")
    module.model.load_state_dict(model.state_dict(), assign=True)
    module.model.tie_weights()
    for name, buffer in model.named_buffers():
        owner, _, attribute = name.rpartition(".")
        module.model.get_submodule(owner).register_buffer(attribute, buffer, persistent=False)
    ids = token_ids(30)[None]
    expected = CausalChunks(model, CONTEXT, OVERLAP)(ids).loss
    torch.testing.assert_close(module(ids).loss, expected, rtol=1e-12, atol=0)


def test_tuple_and_mode():
    model = causal("llama").eval()
    module = CausalChunks(model, CONTEXT, OVERLAP)
    assert not module.training and not model.training
    with torch.no_grad():
        loss, sums, counts = module(token_ids(30)[None], return_dict=False)
    torch.testing.assert_close(loss, sums.sum() / counts.sum())
    assert "context=12, overlap=5" in repr(module)
