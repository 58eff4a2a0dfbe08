"""LongEncoder over a model that lckernels.patch changed: backend and window of the patch."""

import pytest
import torch
from helpers.encoder_models import tiny, token_ids

import lckernels
import lckernels.hf.chunked
import lckernels.hf.interface


@pytest.fixture
def backends(monkeypatch):
    """(op, backend) of the calls of lckernels' attention."""
    found = []

    def record(module, name):
        op = getattr(module, name)

        def run(*args, backend=None, **options):
            found.append((name, backend))
            return op(*args, backend=backend, **options)

        monkeypatch.setattr(module, name, run)

    attention = lckernels.hf.interface.served_attention

    def run_served(*args):
        found.append(("windowed_attention", args[6]))
        return attention(*args)

    monkeypatch.setattr(lckernels.hf.interface, "served_attention", run_served)
    for name in ("chunked_attention", "windowed_attention", "overlap_merge", "overlap_split"):
        record(lckernels.hf.chunked, name)
    return found


@pytest.mark.parametrize("attention", ["auto", "lckernels"])
@pytest.mark.parametrize("merge", ["final", "layer"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_backend_of_the_patch(merge, attention, dropout, backends):
    model = tiny()
    for layer in model.encoder.layer:
        layer.attention.self.dropout.p = dropout
    options = {"merge": merge, "attention": attention}
    ids = token_ids(70)[None]
    expected = lckernels.LongEncoder(model, 20, 6, **options)(ids).last_hidden_state
    lckernels.patch(model, backend="eager")
    encoder = lckernels.LongEncoder(model, 20, 6, **options)
    backends.clear()
    ours = encoder(ids).last_hidden_state
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    encoder.train(dropout > 0)
    encoder(ids)
    assert {name for name, _ in backends} >= {
        "windowed_attention" if merge == "final" else "chunked_attention"
    }
    assert {backend for _, backend in backends} == {"eager"}


def test_a_window_of_the_patch():
    model = tiny()
    encoder = lckernels.LongEncoder(model, 20, 6, merge="layer")
    ids = token_ids(70)[None]
    final = lckernels.LongEncoder(model, 20, 6)(ids).last_hidden_state
    with lckernels.patched(model, window=4):
        with pytest.raises(
            TypeError,
            match=r"model: got BertModel, and it has a window from lckernels\.patch; merge='layer' does not",
        ):
            lckernels.LongEncoder(model, 20, 6, merge="layer")
        with pytest.raises(TypeError, match="merge='layer' requires attention to whole chunks"):
            encoder(ids)
        narrow = lckernels.LongEncoder(model, 20, 6)(ids).last_hidden_state
    assert (narrow - final).abs().max() > 0.1
