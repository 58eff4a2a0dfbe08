"""LongEncoder over a model whose weights accelerate has offloaded."""

# ruff: noqa: E402
import pytest
import torch

accelerate = pytest.importorskip("accelerate")
pytest.importorskip("transformers")

from helpers.encoder_models import pad, tiny, token_ids

import lckernels

OFFLOADS = {
    "cpu": lambda model, folder: accelerate.cpu_offload(model),
    "disk": accelerate.disk_offload,
    "whole": lambda model, folder: accelerate.cpu_offload_with_hook(model, "cpu")[0],
}


@pytest.mark.parametrize("offload", OFFLOADS)
@pytest.mark.parametrize("merge", ["final", "layer"])
def test_offloaded_weights(tmp_path, offload, merge):
    options = {"prefix": [7], "merge": merge}
    ids, mask = pad([token_ids(70), token_ids(20)], "left")
    offloaded = OFFLOADS[offload](tiny(), tmp_path)
    encoder, plain = (lckernels.LongEncoder(model, 20, 6, **options) for model in (offloaded, tiny()))
    assert encoder.device == encoder.prefix.device == torch.device("cpu")
    embeds = tiny().get_input_embeddings()(ids)
    with torch.no_grad():
        expected = plain(ids, mask).last_hidden_state
        torch.testing.assert_close(encoder(ids, mask).last_hidden_state, expected)
        by_embeds = encoder(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(by_embeds, expected)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_one_chunk_on_either_attention(tmp_path, offload):
    model, ids = OFFLOADS[offload](tiny(), tmp_path), token_ids(20)[None]
    with torch.no_grad():
        expected = tiny()(ids).last_hidden_state
        for attention in ("auto", "lckernels", "model"):
            output = lckernels.LongEncoder(model, 20, 6, attention=attention)(ids)
            torch.testing.assert_close(output.last_hidden_state, expected)


def test_the_kernel_is_that_of_the_execution_device(tmp_path):
    plain = lckernels.LongEncoder(tiny(), 20, 6).explain(600).attention
    for offload in OFFLOADS.values():
        assert lckernels.LongEncoder(offload(tiny(), tmp_path), 20, 6).explain(600).attention == plain
