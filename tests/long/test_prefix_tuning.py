"""LongEncoder and patch over an encoder with PEFT's prefix tuning: keys before those of each row."""

# ruff: noqa: E402
import pytest
import torch

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

from helpers.encoder_models import assert_rows, pad, tiny, token_ids

import lckernels

KEYS = 4


def tuned(family="bert"):
    torch.manual_seed(1)
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=KEYS)
    model = peft.get_peft_model(tiny(family), config).eval()
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)  # so that the keys matter
    return model


@pytest.mark.parametrize("attention", ["auto", "lckernels", "model"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_one_chunk_is_the_model_itself(family, attention):
    model = tuned(family)
    encoder = lckernels.LongEncoder(model, attention=attention)
    assert encoder.chunk_len == 32 - KEYS
    rows = [token_ids(n) for n in (28, 9, 20)]
    ids, mask = pad(rows, "right")
    with torch.no_grad():
        alone = [model(input_ids=row[None]).last_hidden_state[0] for row in rows]
        without = model.base_model(input_ids=rows[0][None]).last_hidden_state[0]
        assert (alone[0] - without).abs().max() > 1e-2
        assert_rows(encoder(ids, mask).last_hidden_state, mask, alone)
        for row, expected in zip(rows, alone, strict=True):
            output = encoder(row[None]).last_hidden_state[0]
            torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["lckernels", "model"])
def test_chunks_are_those_of_the_model(attention):
    model = tuned()
    encoder = lckernels.LongEncoder(model, 20, 0, attention=attention)
    ids = token_ids(2 + 18 * 3)
    chunks = [torch.cat([ids[:1], part, ids[-1:]]) for part in ids[1:-1].split(18)]
    with torch.no_grad():
        states = [model(input_ids=chunk[None]).last_hidden_state[0] for chunk in chunks]
        expected = torch.cat([states[0][:1], *(state[1:-1] for state in states), states[-1][-1:]])
        output = encoder(ids[None]).last_hidden_state[0]
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_virtual_tokens_take_positions():
    limit = r"has 28 usable positions \(max_position_embeddings 32 - 4 virtual tokens of prefix tuning\)"
    with pytest.raises(ValueError, match=f"chunk_len: got 29; .* {limit}"):
        lckernels.LongEncoder(tuned(), 29)


def test_merge_in_every_layer_is_not_supported():
    with pytest.raises(TypeError, match="prefix tuning adds keys to each layer; merge='layer' does not"):
        lckernels.LongEncoder(tuned(), merge="layer")


@pytest.mark.parametrize("masked", [False, True])
def test_patched(masked):
    model, ids = tuned(), token_ids(20)[None]
    inputs = {"attention_mask": torch.ones_like(ids)} if masked else {}
    with torch.no_grad():
        expected = model(input_ids=ids, **inputs).last_hidden_state
        with lckernels.patched(model):
            output = model(input_ids=ids, **inputs).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_one_chunk_with_a_window_is_the_patched_model():
    model, ids = tuned(), token_ids(20)[None]
    with torch.no_grad(), lckernels.patched(model, window=6, sink_tokens=KEYS):
        expected = model(input_ids=ids).last_hidden_state
        output = lckernels.LongEncoder(model)(ids).last_hidden_state
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_adapters_beside_prefix_tuning_are_counted_as_nothing():
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"])
    assert lckernels.LongEncoder(peft.get_peft_model(tiny(), config)).chunk_len == 32
