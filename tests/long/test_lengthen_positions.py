"""The length of a chunk for tables of positions that are longer than the model reads, or no nn.Embedding."""

import pytest
import torch
from helpers.encoder_models import CLS, SEP, SIZES, WIDE, token_ids

import lckernels

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "positions"), [("Nystromformer", 64), ("Mra", 64), ("Yoso", 64), ("IBert", 62)]
)
def test_the_longest_row_of_the_model_is_a_chunk(name, positions):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **SIZES, **WIDE, max_position_embeddings=64, bos_token_id=CLS, eos_token_id=SEP, initializer_range=0.2
    )
    model = getattr(transformers, f"{name}ForTokenClassification")(config).eval()
    ids = token_ids(3 * positions)[None]
    with torch.no_grad():
        whole = model(ids[:, :positions]).logits
        with pytest.raises((RuntimeError, IndexError)):
            model(ids[:, : positions + 1])
        assert lckernels.lengthen(model).chunk_len == positions
        assert torch.equal(model(ids[:, :positions]).logits, whole)
        assert model(ids).logits.isfinite().all()
