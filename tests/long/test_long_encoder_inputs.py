"""Arguments of a call of LongEncoder: lists and arrays, also ragged ones; ids without special tokens."""

import warnings

import numpy
import pytest
import torch
import transformers
from helpers.encoder_models import CLS, SEP, pad, tiny, token_ids

import lckernels

LENGTHS = (70, 9, 33)


def numbers(rows):
    return [row.tolist() for row in rows]


FORMS = {
    "lists": numbers,
    "an array": lambda rows: numpy.array(numbers(rows)),
    "an array of 16 bits": lambda rows: numpy.array(numbers(rows), dtype=numpy.uint16),
    "a list of arrays": lambda rows: [numpy.array(row, dtype=numpy.int32) for row in numbers(rows)],
    "a list of tensors": list,
    "tuples": lambda rows: tuple(map(tuple, numbers(rows))),
}


@pytest.mark.parametrize("form", FORMS)
def test_input_of_one_length(form):
    encoder, rows = lckernels.LongEncoder(tiny(), 20, 6), [token_ids(70, seed) for seed in range(3)]
    ids, types = torch.stack(rows), (torch.arange(70) >= 30).long().expand(3, 70)
    mask = torch.ones_like(ids)
    mask[1, 50:] = 0
    make = FORMS[form]
    with torch.no_grad():
        expected = encoder(ids, mask, token_type_ids=types).last_hidden_state
        output = encoder(make(ids), make(mask), token_type_ids=make(types)).last_hidden_state
        assert torch.equal(output, expected)
        assert torch.equal(encoder.embed(make(ids), make(mask)), encoder.embed(ids, mask))


@pytest.mark.parametrize("form", [form for form in FORMS if "array of" not in form and form != "an array"])
def test_rows_of_different_length_are_padded(form):
    encoder, rows = lckernels.LongEncoder(tiny(), 20, 6), [token_ids(n) for n in LENGTHS]
    types = [(torch.arange(n) >= n // 2).long() for n in LENGTHS]
    ids, mask = pad(rows, "right")
    padded_types = torch.nn.utils.rnn.pad_sequence(types, batch_first=True)
    make = FORMS[form]
    with torch.no_grad():
        expected = encoder(ids, mask, token_type_ids=padded_types).last_hidden_state
        output = encoder(make(rows), token_type_ids=make(types)).last_hidden_state
        assert torch.equal(output, expected)
        ones = [torch.ones(n, dtype=torch.long) for n in LENGTHS]
        assert torch.equal(encoder(make(rows), make(ones), token_type_ids=make(types))[0], expected)
        assert torch.equal(encoder.embed(make(rows)), encoder.embed(ids, mask))


def test_an_array_of_arrays():
    """What pandas, Spark and Ray make of a column of lists."""
    encoder, rows = lckernels.LongEncoder(tiny(), 20, 6), [token_ids(n) for n in LENGTHS]
    column = numpy.empty(3, dtype=object)
    column[:] = [row.numpy() for row in rows]
    with torch.no_grad():
        expected = encoder(*pad(rows, "right")).last_hidden_state
        assert torch.equal(encoder(column).last_hidden_state, expected)


def test_embeddings_as_arrays():
    encoder, model = lckernels.LongEncoder(tiny(), 20, 6), tiny()
    rows = [token_ids(n) for n in LENGTHS]
    with torch.no_grad():
        embeds = [model.get_input_embeddings()(row) for row in rows]
        expected = encoder(*pad(rows, "right")).last_hidden_state
        output = encoder(inputs_embeds=[row.numpy() for row in embeds]).last_hidden_state
    torch.testing.assert_close(output, expected)


def test_a_read_only_array_is_not_warned_of():
    ids = numpy.array([numbers([token_ids(30)])[0]])
    ids.flags.writeable = False
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        assert lckernels.LongEncoder(tiny(), 20, 6)(ids).last_hidden_state.shape == (1, 30, 16)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"input_ids": "a text"},
            TypeError,
            r"input_ids: got str; expected \(batch, seqlen\) integers: a ten",
        ),
        ({"input_ids": 3}, TypeError, r"input_ids: got int; expected \(batch, seqlen\) integers"),
        (
            {"input_ids": ["a text"]},
            TypeError,
            r"input_ids: got str for row 0; expected \(batch, seqlen\) int",
        ),
        ({"input_ids": [[3, 4], [3, None]]}, TypeError, "input_ids: got list for row 1; expected"),
        (
            {"input_ids": {"input_ids": torch.ones(1, 3)}},
            TypeError,
            r"input_ids: got dict; .* lists; pass a tokenizer's output as encoder\(\*\*inputs\)$",
        ),
        (
            {"input_ids": [3, 5, 4]},
            ValueError,
            r"input_ids: got shape \(3,\); expected \(batch, seqlen\), not",
        ),
        (
            {"input_ids": []},
            ValueError,
            r"input_ids: got shape \(0,\); expected \(batch, seqlen\), not empty",
        ),
        ({"input_ids": [[3.5, 4.0]]}, ValueError, "input_ids: got dtype torch.float32; expected integers"),
        ({"input_ids": [[3, 5, 4], []]}, ValueError, "got row 1 with padding only, an empty sequence"),
        (
            {"input_ids": [[3, 5, 4], [3.5, 4.0]]},
            ValueError,
            r"input_ids: got row 1 of shape \(2,\) in torch.float32; another row has shape \(3,\) in",
        ),
        (
            {"input_ids": [[3, 5, 4], [3, 4]], "attention_mask": [[1, 1, 1], [1, 1, 1]]},
            ValueError,
            "attention_mask: got row 1 with 3 tokens; input_ids has 2 in it",
        ),
        (
            {"input_ids": torch.tensor([[3, 5, 4], [3, 5, 4]]), "attention_mask": [[1, 1, 1], [1, 1]]},
            ValueError,
            "attention_mask: got row 1 with 2 tokens; input_ids has 3 in it",
        ),
        (
            {"input_ids": [[3, 5, 4], [3, 4]], "token_type_ids": [[0, 0, 0], [1]]},
            ValueError,
            "token_type_ids: got row 1 with 1 tokens; input_ids has 2 in it",
        ),
        (
            {"input_ids": [[3, 5, 4]], "attention_mask": [[1, 1, 1], [1, 1, 1]]},
            ValueError,
            r"attention_mask: got shape \(2, 3\); input_ids has \(batch, seqlen\) = \(1, 3\)",
        ),
    ],
)
def test_what_is_no_batch(arguments, error, message):
    with pytest.raises(error, match=message):
        lckernels.LongEncoder(tiny(), 20)(**arguments)


def bare(length):
    """Token ids without special tokens."""
    return token_ids(length + 2)[1:-1]


def roberta():
    model = tiny("roberta")
    assert (model.config.bos_token_id, model.config.eos_token_id) == (CLS, SEP)
    return model


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_without_special_tokens_are_warned_of(side):
    ids, mask = pad([token_ids(30), bare(20)], side)
    with torch.no_grad():
        for inputs in ((ids, mask), (bare(40)[None],), (bare(9)[None],)):
            with pytest.warns(UserWarning, match="begin with 3 and end with 4.*special_tokens="):
                lckernels.LongEncoder(roberta(), 20)(*inputs)


def test_the_warning_points_to_the_caller_of_the_encoder():
    encoder, ids = lckernels.LongEncoder(roberta(), 20), bare(9)[None]
    hooked = lckernels.LongEncoder(roberta(), 20)
    hooked.register_forward_hook(lambda *args: None)  # torch then has one more function on the way
    calls = [encoder, encoder.embed, hooked, torch.nn.Sequential(encoder)]
    for call in calls:
        with torch.no_grad(), pytest.warns(UserWarning, match="special_tokens=") as found:
            call(ids)
        assert [w.filename for w in found if "special_tokens=" in str(w.message)] == [__file__]


def test_rows_with_special_tokens_are_not_warned_of(recwarn):
    ids, mask = pad([token_ids(30), token_ids(20)], "left")
    with torch.no_grad():
        lckernels.LongEncoder(roberta(), 20)(ids, mask)
        lckernels.LongEncoder(roberta(), 20, special_tokens=(0, 0))(bare(40)[None])
        lckernels.LongEncoder(tiny(), 20)(bare(40)[None])  # BERT's config has no such ids
        # One of the two is enough: configs have other ids than tokenizers for some models.
        lckernels.LongEncoder(roberta(), 20)(token_ids(30)[None, :-1])
        # Old configs have 0 for these and for padding.
        zeros = transformers.BertConfig(**{**tiny().config.to_dict(), "pad_token_id": 0, "bos_token_id": 0})
        lckernels.LongEncoder(transformers.BertModel(zeros), 20)(token_ids(30)[None])
    assert not [w for w in recwarn if "special_tokens" in str(w.message)]
