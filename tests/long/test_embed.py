"""LongEncoder.embed: one vector per sequence."""

import pytest
import torch
from helpers.encoder_models import final, layer, pad, tiny, token_ids

import lckernels


@pytest.mark.parametrize("build", [final, layer])
@pytest.mark.parametrize("side", ["right", "left"])
def test_mean_of_the_tokens_that_are_no_padding(build, side):
    encoder = build(tiny(), 20, 6, prefix=[7, 8])
    rows = [token_ids(n) for n in (70, 2, 33)]
    ids, mask = pad(rows, side)
    with torch.no_grad():
        vectors = encoder.embed(ids, mask)
        expected = [encoder(row[None]).last_hidden_state[0].mean(0) for row in rows]
    assert vectors.shape == (3, 16)
    torch.testing.assert_close(vectors, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_without_a_mask_every_token_counts():
    encoder, ids = lckernels.LongEncoder(tiny(), 20, 6), torch.stack([token_ids(40), token_ids(40, 1)])
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(ids), encoder(ids).last_hidden_state.mean(1))
        embeds = encoder.get_input_embeddings()(ids)
        torch.testing.assert_close(encoder.embed(inputs_embeds=embeds), encoder.embed(ids))


@pytest.mark.parametrize(
    ("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_the_mean_is_not_rounded_to_a_short_dtype(dtype, result):
    encoder = lckernels.LongEncoder(tiny().to(dtype), 20, 6)
    with torch.no_grad():
        assert encoder.embed(token_ids(70)[None]).dtype == result


def test_gradients():
    encoder = lckernels.LongEncoder(tiny(), 20, 6)
    encoder.embed(token_ids(70)[None]).square().sum().backward()
    assert encoder.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0
