"""MaskedChunks: each labelled token is scored once, by the chunk with the most context around it."""

# ruff: noqa: E402
import pytest
import torch
import torch.nn.functional as F

transformers = pytest.importorskip("transformers")

from helpers.language_models import CLS, MASKED, SEP, gradients, largest_difference, masked, token_ids

from lckernels.training import MaskedChunks

pytestmark = pytest.mark.hf

CHUNK, OVERLAP = 14, 5
ROOM = CHUNK - 2


def documents(lengths, left=False, share=3):
    """Rows with special tokens at both ends; every third token inside has a label."""
    ids = torch.full((len(lengths), max(lengths)), 1)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        first = max(lengths) - length if left else 0
        text = torch.cat([torch.tensor([CLS]), token_ids(length - 2, row), torch.tensor([SEP])])
        ids[row, first : first + length], mask[row, first : first + length] = text, 1
        inside = torch.arange(first + 1, first + length - 1)
        labels[row, inside[::share]] = token_ids(len(inside[::share]), row + 50)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def by_token(model, ids, labels):
    """The loss of each labelled token of a document: of the chunk with the most context on both sides."""
    content = ids[1:-1]
    last = max(len(content) - ROOM, 0)
    begins = sorted({min(b, last) for b in range(0, last + ROOM - OVERLAP, ROOM - OVERLAP)}) if last else [0]
    losses = []
    for token in (labels[1:-1] != -100).nonzero().flatten().tolist():
        inside = [b for b in begins if b <= token < b + ROOM]
        ends = {b: min(b + ROOM, len(content)) for b in inside}
        scarce = {
            b: min(token - b if b else ROOM, ends[b] - token if ends[b] < len(content) else ROOM)
            for b in inside
        }
        scarce = {
            b: min(token - b + 1 if b else ROOM, ends[b] - token if ends[b] < len(content) else ROOM)
            for b in inside
        }
        begin = max(inside, key=lambda b: (scarce[b], -b))
        chunk = torch.cat([ids[:1], content[begin : begin + ROOM], ids[-1:]])[None]
        logits = model(input_ids=chunk).logits[0, 1 + token - begin].double()
        losses.append(F.cross_entropy(logits, labels[1 + token]))
    return losses


@pytest.mark.parametrize("name", MASKED)
def test_loss_and_gradients_are_those_of_the_definition(name):
    model = masked(name)
    module = MaskedChunks(model, CHUNK, OVERLAP, max_tokens=40)
    lengths = [40, 9, 15, 14, 23]
    rows = documents(lengths)
    losses = [by_token(model, rows["input_ids"][i, :n], rows["labels"][i, :n]) for i, n in enumerate(lengths)]
    expected = torch.stack([x for row in losses for x in row]).mean()
    found = module(**rows)
    assert found.num_scored.tolist() == [len(row) for row in losses]
    torch.testing.assert_close(found.loss, expected, rtol=1e-7, atol=0)
    assert largest_difference(gradients(found.loss, model), gradients(expected, model)) < 1e-6
    left = module(**documents(lengths, left=True))
    torch.testing.assert_close(left.loss, found.loss, rtol=1e-7, atol=0)


@pytest.mark.parametrize("chunk_len, overlap", [(3, 0), (10, 0), (10, 7), (13, 4)])
def test_every_label_is_scored_once_whatever_the_length(chunk_len, overlap):
    module = MaskedChunks(masked("bert"), chunk_len, overlap)
    lengths = [*range(3, 33)]
    assert module(**documents(lengths, share=1)).num_scored.tolist() == [n - 2 for n in lengths]


def test_labels_of_special_tokens_are_scored():
    rows = documents([40])
    rows["labels"][0, [0, -1]] = torch.tensor([CLS, SEP])
    found = MaskedChunks(masked("bert"), CHUNK, OVERLAP)(**rows)
    assert int(found.num_scored) == int((rows["labels"] != -100).sum())


def test_a_document_of_one_chunk_has_the_loss_of_the_model():
    model = masked("bert")
    rows = documents([CHUNK])
    found = MaskedChunks(model, CHUNK, OVERLAP)(
        **rows, token_type_ids=torch.zeros(1, CHUNK, dtype=torch.long)
    )
    torch.testing.assert_close(found.loss, model(**rows).loss, rtol=1e-9, atol=0)


def test_token_types_are_cut_like_tokens():
    model = masked("bert")
    rows = documents([40])
    module = MaskedChunks(model, CHUNK, OVERLAP)
    zeros = module(**rows, token_type_ids=torch.zeros(1, 40, dtype=torch.long)).loss
    types = torch.zeros(1, 40, dtype=torch.long)
    types[:, 20:] = 1
    torch.testing.assert_close(zeros, module(**rows).loss, rtol=1e-12, atol=0)
    assert (module(**rows, token_type_ids=types).loss - zeros).abs() > 1e-4


def test_with_windows_it_is_the_loss_of_the_whole_document():
    """ModernBERT with a window in each layer; special tokens at the ends of each chunk change its edges."""
    model = masked("modernbert", layer_types=["sliding_attention"] * 3)
    rows = documents([60])
    halo = 3 * 2
    module = MaskedChunks(model, 8 + 2 * halo, 2 * halo, special_tokens=(0, 0))
    found, whole = module(**rows).loss, model(**rows).loss.double()
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
    assert largest_difference(gradients(found, model), gradients(whole, model)) < 1e-6
    short = MaskedChunks(model, 8 + 2 * halo, 2, special_tokens=(0, 0))(**rows).loss
    assert (short - whole).abs() > 1e-6 * whole  # the test can fail


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recompute_has_the_gradients_of_stored_activations(dropout):
    model = masked("bert", hidden_dropout_prob=dropout)
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        module = MaskedChunks(model, CHUNK, OVERLAP, recompute=recompute, max_tokens=30)
        loss = module(**documents([50, 17])).loss
        found.append((loss, gradients(loss, model)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)
    assert largest_difference(found[1][1], found[0][1]) < 1e-12


def test_nothing_to_score_is_zero_with_zero_gradients():
    model = masked("bert")
    module = MaskedChunks(model, CHUNK, OVERLAP)
    rows = documents([20, 9])
    rows["labels"][:] = -100
    empty = {**rows, "attention_mask": torch.zeros(2, 20, dtype=torch.long)}
    for batch in (rows, empty):
        found = module(**batch)
        assert found.loss == 0 and found.num_scored.tolist() == [0, 0]
        found.loss.backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
        model.zero_grad()


def test_empty_documents_beside_others():
    module = MaskedChunks(masked("bert"), CHUNK, OVERLAP)
    rows = documents([30, 20])
    rows["attention_mask"][1], rows["labels"][1] = 0, -100
    torch.testing.assert_close(module(**rows).loss, module(**documents([30])).loss, rtol=1e-9, atol=0)
