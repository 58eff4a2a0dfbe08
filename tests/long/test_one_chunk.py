"""Rows that are one chunk each: the model's own call, without a plan, a merge or a copy of its config."""

import pytest
import torch
import transformers
from helpers.encoder_models import FAMILIES, pad, tiny, token_ids

import lckernels
import lckernels.long.run


@pytest.fixture
def whole_only(monkeypatch):
    """Planning chunks and copying a config raise."""

    def fail(*args, **kwargs):
        raise AssertionError("planned or copied")

    monkeypatch.setattr(lckernels.long.run, "chunk_documents", fail)
    monkeypatch.setattr(transformers.PreTrainedConfig, "__deepcopy__", fail, raising=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_one_call_of_the_model(family, masked, whole_only):
    model = tiny(family)
    encoder = lckernels.LongEncoder(model)
    ids = torch.stack([token_ids(32, seed) for seed in range(2)])
    inputs = {"attention_mask": torch.ones_like(ids)} if masked else {}
    with torch.no_grad():
        plain = model(input_ids=ids, output_hidden_states=True)
        output = encoder(ids, **inputs, output_hidden_states=True)
        as_tuple = encoder(ids, **inputs, return_dict=False)
    assert type(output) is type(plain)
    assert output.keys() == {"last_hidden_state", "hidden_states"}
    assert torch.equal(output.last_hidden_state, plain.last_hidden_state)
    assert len(output.hidden_states) == len(plain.hidden_states)
    assert all(map(torch.equal, output.hidden_states, plain.hidden_states))
    assert len(as_tuple) == 1
    assert torch.equal(as_tuple[0], plain.last_hidden_state)


def test_a_large_config_is_not_copied(whole_only):
    model = tiny()
    model.config.id2label = {i: f"label {i}" for i in range(20_000)}
    encoder = lckernels.LongEncoder(model, attention="auto")
    with torch.no_grad():
        assert torch.equal(encoder(token_ids(12)[None])[0], model(token_ids(12)[None])[0])


def test_types_and_gradients(whole_only):
    model, ids = tiny(), torch.stack([token_ids(30), token_ids(30, 1)])
    types = (torch.arange(30) >= 12).long().expand(2, 30)
    encoder = lckernels.LongEncoder(model, attention="model")
    gradients = []
    for call in (model, encoder):
        model.zero_grad()
        call(input_ids=ids, token_type_ids=types).last_hidden_state.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_max_tokens_bounds_the_call(monkeypatch):
    model, sizes = tiny(), []
    run = model.forward
    monkeypatch.setattr(
        model, "forward", lambda **inputs: sizes.append(inputs["input_ids"].numel()) or run(**inputs)
    )
    ids = torch.stack([token_ids(20, seed) for seed in range(5)])
    with torch.no_grad():
        outputs = [lckernels.LongEncoder(model, max_tokens=n)(ids).last_hidden_state for n in (40, 100)]
    assert sizes == [40, 40, 20, 100]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("length", [20, 60])
@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({}, {"sentence_boundaries": [[3]]}, "sentence_boundaries: got 1 lists; expected None"),
        ({"boundaries": "sentence"}, {}, "sentence_boundaries: got None; expected one list per row"),
        ({}, {"attention_mask": torch.full((1, 60), 2)}, "attention_mask: got values beside 0 and 1"),
        ({}, {"output_attentions": True}, "output_attentions: got bool; LongEncoder does not support it"),
        ({"weights": torch.ones(7, 7)}, {}, "weights: got shape"),
    ],
)
def test_errors_do_not_depend_on_the_length(length, options, inputs, message):
    inputs = {name: x[:, :length] if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
    with pytest.raises(ValueError, match=message):
        lckernels.LongEncoder(tiny(), **options)(token_ids(length)[None], **inputs)


@pytest.mark.parametrize("outside", [-1, 60])
@pytest.mark.parametrize("length", [20, 60])
def test_ids_outside_the_vocabulary(outside, length):
    ids = torch.stack([token_ids(length), token_ids(length, 1)])
    ids[1, 5] = outside
    with pytest.raises(
        ValueError, match=f"input_ids: got token id {outside} in row 1; the model's embedding"
    ):
        lckernels.LongEncoder(tiny())(ids)


def test_output_device_and_dtype():
    encoder = lckernels.LongEncoder(tiny().bfloat16(), output_device="meta")
    with torch.no_grad():
        state = encoder(token_ids(20)[None]).last_hidden_state
    assert (state.device.type, state.dtype) == ("meta", torch.bfloat16)


def test_a_prefix_is_read(monkeypatch):
    model, ids = tiny(), token_ids(20)
    with torch.no_grad():
        output = lckernels.LongEncoder(model, prefix=[7, 8])(ids[None]).last_hidden_state[0]
        row = torch.cat([ids[:1], torch.tensor([7, 8]), ids[1:]])
        expected = model(row[None]).last_hidden_state[0]
    torch.testing.assert_close(output, torch.cat([expected[:1], expected[3:]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_have_the_states_they_have_alone(side):
    model = tiny()
    rows = [token_ids(n) for n in (9, 32, 20)]
    ids, mask = pad(rows, side)
    with torch.no_grad():
        output = lckernels.LongEncoder(model)(ids, mask).last_hidden_state
        for i, row in enumerate(rows):
            expected = model(row[None]).last_hidden_state[0]
            torch.testing.assert_close(output[i][mask[i].bool()], expected, rtol=1e-5, atol=1e-5)
            assert (output[i][~mask[i].bool()] == 0).all()
