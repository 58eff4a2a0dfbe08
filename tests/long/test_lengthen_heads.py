"""Task heads of a lengthened model, against a plain loop over the chunks and the head's own modules."""

import copy
import inspect
import warnings

import pytest
import torch
from helpers.encoder_models import PAD, pad, token_ids
from helpers.head_models import (
    CONFIGS,
    HEADS,
    encoder_of,
    head_labels,
    head_logits,
    head_loss,
    head_model,
    output_logits,
)
from helpers.merged_by_hand import merged_by_hand

import lckernels

CHUNK = 32
WIDTH = 120  # of a padded batch
LENGTHS = (100, 20, 57)
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}


def batch(lengths=LENGTHS, width=WIDTH):
    """Ids and mask of a batch with rows of these lengths, padded to `width`."""
    ids, mask = pad([token_ids(length) for length in lengths], "right")
    extra = (0, width - ids.shape[1])
    return torch.nn.functional.pad(ids, extra, value=PAD), torch.nn.functional.pad(mask, extra)


def call(model, head, ids, mask, **inputs):
    """The output; the rows are the choices of one question for a multiple choice."""
    given = {"input_ids": ids, "attention_mask": mask, **inputs}
    if head == "MultipleChoice":
        of_rows = ("input_ids", "attention_mask", "token_type_ids")
        given = {name: x[None] if name in of_rows else x for name, x in given.items()}
    return model(**given)


def expected_states(model, ids, mask, leads=None, types=None, **options):
    """The merged states of each layer, (rows, seqlen, dim), and the numbers of chunks."""
    encoder, layers, pieces = encoder_of(model), [], []
    for row, length in enumerate(mask.sum(1).tolist()):

        def read(columns, row=row):
            inputs = {} if types is None else {"token_type_ids": types[row : row + 1, columns]}
            output = encoder(ids[row : row + 1, columns], output_hidden_states=True, **inputs)
            return [output.last_hidden_state[0], *(x[0] for x in output.hidden_states)]

        lead = 1 if leads is None else leads[row]
        states, count = merged_by_hand(read, length, lead=lead, chunk_len=CHUNK, **options)
        extra = (0, 0, 0, ids.shape[1] - length)
        layers.append([torch.nn.functional.pad(state, extra) for state in states])
        pieces.append(count)
    return [torch.stack(rows) for rows in zip(*layers, strict=True)], pieces


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_short_rows_are_unchanged_to_the_bit(family, head):
    model = head_model(family, head)
    ids, mask = batch((CHUNK, 7), CHUNK)
    before = call(model, head, ids, mask, **head_labels(head, [CHUNK, 7], CHUNK))
    lckernels.lengthen(model, chunk_len=CHUNK)
    after = call(model, head, ids, mask, **head_labels(head, [CHUNK, 7], CHUNK))
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_long_rows_loss_and_gradients(family, head):
    """The head's logits and its own loss on merged states, and the gradients of all weights."""
    model = head_model(family, head)
    plain = copy.deepcopy(model)
    ids, mask = batch()
    labels = head_labels(head, LENGTHS, WIDTH)

    (states, *_), pieces = expected_states(plain, ids, mask)
    assert pieces[1] == 1 and min(pieces[0], pieces[2]) > 1
    logits = head_logits(plain, head, states, mask)
    in_fp32 = (family, head) == ("modernbert", "MaskedLM")  # its loss, of any model
    loss = head_loss(head, logits.float() if in_fp32 else logits, labels)
    loss.backward()
    tolerance = {"rtol": 1e-6, "atol": 1e-7} if in_fp32 else TOLERANCE

    lckernels.lengthen(model, chunk_len=CHUNK, max_tokens=2 * CHUNK)
    output = call(model, head, ids, mask, **labels)
    torch.testing.assert_close(output_logits(output, head), logits, **TOLERANCE)
    torch.testing.assert_close(output.loss, loss, **tolerance)
    output.loss.backward()
    compared = 0
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            compared += bool(theirs.grad.any())
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name, **tolerance)
    assert compared > 10


@pytest.mark.parametrize("summary", ["mean", "first"])
@pytest.mark.parametrize("weights", ["triangular", "uniform"])
@pytest.mark.parametrize("family", CONFIGS)
def test_summary_and_weights(family, weights, summary):
    model = head_model(family, "SequenceClassification")
    ids, mask = batch()
    options = {"weights": weights, "summary": summary, "overlap": 9}
    (states, *_), _ = expected_states(model, ids, mask, **options)
    (others, *_), _ = expected_states(
        model, ids, mask, **options | {"summary": "first" if summary == "mean" else "mean"}
    )
    lckernels.lengthen(model, chunk_len=CHUNK, **options)
    with torch.no_grad():
        logits = call(model, "SequenceClassification", ids, mask).logits
    expected = head_logits(model, "SequenceClassification", states, mask)
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    other = head_logits(model, "SequenceClassification", others, mask)
    assert (logits - other)[[0, 2]].abs().amax(1).min() > 1e-3  # the rows of several chunks
    assert (logits - other)[1].abs().max() < 1e-12


@pytest.mark.parametrize("head", ["SequenceClassification", "MultipleChoice"])
def test_the_mean_of_modernbert(head):
    model = head_model("modernbert", head, classifier_pooling="mean")
    ids, mask = batch()
    (states, *_), _ = expected_states(model, ids, mask)
    lckernels.lengthen(model, chunk_len=CHUNK)
    with torch.no_grad():
        logits = call(model, head, ids, mask).logits
    torch.testing.assert_close(logits, head_logits(model, head, states, mask), **TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_hidden_states(family, head):
    """output_hidden_states=True: those of every layer are merged; as an argument and from the config."""
    model = head_model(family, head)
    ids, mask = batch()
    (_, *layers), _ = expected_states(model, ids, mask)
    lckernels.lengthen(model, chunk_len=CHUNK)
    with torch.no_grad():
        assert call(model, head, ids, mask).hidden_states is None
        given = call(model, head, ids, mask, output_hidden_states=True).hidden_states
        model.config.output_hidden_states = True
        by_config = call(model, head, ids, mask).hidden_states
    assert len(given) == len(by_config) == len(layers)
    for ours, same, layer in zip(given, by_config, layers, strict=True):
        torch.testing.assert_close(ours, layer, **TOLERANCE)
        assert torch.equal(same, ours)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_tuple(family, head):
    """return_dict=False: as an argument and from the config, with and without labels and hidden states."""
    model = head_model(family, head)
    ids, mask = batch()
    lckernels.lengthen(model, chunk_len=CHUNK)
    with torch.no_grad():
        for inputs in ({}, head_labels(head, LENGTHS, WIDTH), {"output_hidden_states": True}):
            named = call(model, head, ids, mask, **inputs)
            given = call(model, head, ids, mask, return_dict=False, **inputs)
            assert_same(given, named.to_tuple())
            if (
                family == "modernbert"
            ):  # of transformers 5.24: its heads require return_dict=True in the config
                continue
            model.config.return_dict = False
            by_config = call(model, head, ids, mask, **inputs)
            model.config.return_dict = True
            assert_same(by_config, named.to_tuple())


def assert_same(actual, expected):
    """Equal to the bit, in nested tuples."""
    assert type(actual) is type(expected)
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for ours, theirs in zip(actual, expected, strict=True):
            assert_same(ours, theirs)
    else:
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_positional_arguments(family, head):
    model = head_model(family, head)
    ids, mask = batch()
    lckernels.lengthen(model, chunk_len=CHUNK)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": None}
    if head == "MultipleChoice":
        given |= {"input_ids": ids[None], "attention_mask": mask[None]}
    names = list(inspect.signature(model.forward).parameters)[:3]
    with torch.no_grad():
        expected = output_logits(call(model, head, ids, mask), head)
        assert torch.equal(output_logits(model(*map(given.get, names)), head), expected)
        states = encoder_of(model)(ids, mask).last_hidden_state
        assert torch.equal(encoder_of(model)(input_ids=ids, attention_mask=mask).last_hidden_state, states)


@pytest.mark.parametrize("family", CONFIGS)
def test_embeddings_as_input(family):
    model = head_model(family, "TokenClassification")
    ids, _ = batch((57,), 57)
    embeds = model.get_input_embeddings()(ids)
    with lckernels.lengthened(model, chunk_len=CHUNK), torch.no_grad():
        expected = model(input_ids=ids).logits
    with lckernels.lengthened(model, chunk_len=CHUNK, prefix=None), torch.no_grad():
        torch.testing.assert_close(model(inputs_embeds=embeds).logits, expected, **TOLERANCE)


@pytest.mark.parametrize("attention", ["auto", "lckernels", "model"])
@pytest.mark.parametrize("family", CONFIGS)
def test_attention(family, attention):
    """lckernels' attention and the model's own, in fp32; two architectures have attention of their own."""
    model = head_model(family, "TokenClassification").float()
    ids, mask = batch()
    if family in ("deberta_v2", "mpnet") and attention == "lckernels":
        name = type(encoder_of(model)).__name__
        message = f"model: got {name}; attention='lckernels' does not support it: the attention of {name}"
        with pytest.raises(TypeError, match=message):
            lckernels.lengthen(model, chunk_len=CHUNK, attention=attention)
        return
    with torch.no_grad():
        (states, *_), _ = expected_states(copy.deepcopy(model).double(), ids, mask)
        expected = head_logits(model, "TokenClassification", states.float(), mask)
        (plain, *_), _ = expected_states(model, ids, mask)
        error = (head_logits(model, "TokenClassification", plain, mask) - expected).abs().max()
        lckernels.lengthen(model, chunk_len=CHUNK, attention=attention)
        with warnings.catch_warnings(action="error"):  # a dense mask on lckernels' attention is one
            logits = call(model, "TokenClassification", ids, mask).logits
    assert (logits - expected).abs().max() <= 2 * error + 1e-6
