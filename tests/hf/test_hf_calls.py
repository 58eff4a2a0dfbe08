"""The decision about one call: windowed attention, chunked attention, dense attention, or an error."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from transformers import masking_utils as mu

from lckernels.hf.calls import BIAS, BROADCAST, OWN_MASK, WEIGHTS, Chunked, Dense, Served, classify
from lckernels.hf.masks.chunk_mask import ChunkMask
from lckernels.hf.masks.create import key_mask
from lckernels.hf.masks.descriptor import NotServed
from lckernels.hf.masks.kinds import CAUSAL, FULL, Kind
from lckernels.hf.settings import PLAIN, LayerSettings

CPU = torch.device("cpu")


def call(mask=None, seqlen_q=6, seqlen_k=6, settings=PLAIN, weights=False, causal=True, **options):
    query, key = torch.zeros(2, 4, seqlen_q, 8), torch.zeros(2, 2, seqlen_k, 8)
    options = {"is_causal": causal, **options}
    return classify(torch.nn.Identity(), query, key, mask, options, settings, weights)


def sliding(width):
    return mu.sliding_window_causal_mask_function(width)


SERVED = {
    "no mask, causal": (call, {}, Kind(CAUSAL), CAUSAL, 0),
    "no mask, full": (call, {"causal": False}, Kind(FULL), FULL, 0),
    "no mask, cross": (call, {"causal": False, "seqlen_k": 9}, Kind(FULL, cross=True), FULL, 0),
    "no mask, one query after a cache": (call, {"seqlen_q": 1, "seqlen_k": 9}, Kind(CAUSAL), CAUSAL, 8),
    "sliding window": (call, {"mask": key_mask(2, 6, 6, mask_function=sliding(4))}, Kind((3, 0)), (3, 0), 0),
    "sliding window after a cache": (
        call, {"mask": key_mask(2, 2, 6, 4, 0, sliding(4)), "seqlen_q": 2}, Kind((3, 0)), (3, 0), 4,
    ),
    "a patch's window on full attention": (
        call, {"settings": LayerSettings(3), "mask": key_mask(2, 6, 6)}, Kind(CAUSAL), (2, 0), 0,
    ),
    "a patch's window on a window": (
        call,
        {"settings": LayerSettings(3), "mask": key_mask(2, 6, 6, mask_function=sliding(5))},
        Kind((4, 0)), (4, 0), 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SERVED)
def test_supported_calls(name):
    function, arguments, kind, window, offset = SERVED[name]
    found = function(**arguments)
    assert isinstance(found, Served)
    assert (found.kind, found.window, found.layout.offset) == (kind, window, offset)


def test_sink_tokens_go_with_a_patchs_window_only():
    settings = LayerSettings(3, sink_tokens=2)
    assert call(key_mask(2, 6, 6), settings=settings).layout.sink_tokens == 2
    assert call(settings=settings).layout.sink_tokens == 2
    assert call(key_mask(2, 6, 6, mask_function=sliding(5)), settings=settings).layout.sink_tokens == 0


def test_softcap_and_sinks_are_the_score():
    sinks = torch.zeros(4)
    score = call(softcap=30.0, s_aux=sinks).score
    assert score.softcap == 30.0
    assert score.sink_logits is sinks


DENSE = {
    "weights": ({"weights": True}, WEIGHTS),
    "a bias": ({"position_bias": torch.zeros(1, 4, 6, 6)}, BIAS),
    "a mask of one row": ({"mask": key_mask(1, 6, 6)}, BROADCAST),
    "a dense mask": ({"mask": torch.ones(2, 1, 6, 6, dtype=torch.bool)}, OWN_MASK),
    "weights before all other reasons": ({"weights": True, "position_bias": torch.zeros(1)}, WEIGHTS),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense(name):
    arguments, reason = DENSE[name]
    assert call(**arguments) == Dense(reason)


def test_chunked():
    mask = ChunkMask.of_shape(1, 1, 6, 6, device=CPU)
    assert call(mask).mask is mask
    assert isinstance(call(mask, weights=True), Chunked)
    with pytest.raises(TypeError, match="it adds a relative position bias; merge='layer' requires absolute"):
        call(mask, position_bias=torch.zeros(1))


ERRORS = {
    "an option": ({"indices": torch.zeros(1)}, "indices: got Tensor; .* does not support it"),
    "sinks of each query": ({"s_aux": torch.zeros(2, 4)}, r"s_aux: got shape \(2, 4\); expected"),
    "a mask of other sizes": ({"mask": key_mask(2, 6, 7)}, r"attention_mask: got shape \(2, 1, 6, 7\); exp"),
    "packed sequences in dense attention": (
        {"weights": True, "cu_seq_lens_q": torch.tensor([0, 6])}, "runs as dense attention, which would mix",
    ),
    "packed sequences after a cache": (
        {"seqlen_q": 1, "seqlen_k": 9, "cu_seq_lens_q": torch.tensor([0, 1])}, "and keys of a cache",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_unsupported_calls(name):
    arguments, message = ERRORS[name]
    with pytest.raises(NotServed, match=message):
        call(**arguments)


def test_layers_with_keys_before_a_mask_do_not_change_the_call_of_the_others():
    mask = key_mask(2, 6, 6, mask_function=mu.bidirectional_mask_function)
    assert call(mask, seqlen_k=9).kind == Kind(FULL, cross=True)
    assert call(mask).kind == Kind(FULL)


def test_it_changes_nothing():
    settings = LayerSettings(3)
    call(key_mask(2, 6, 6), settings=settings)
    assert settings == LayerSettings(3)
