"""T5 and LongT5 with a bias of the user's own under lckernels.patch: the same results, or one message."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_models import T5, VOCAB
from helpers.hf_patched import IDS, MASK, close
from transformers.models.t5.modeling_t5 import T5Attention

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")

PADDED = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": IDS[:, :9]}
KINDS = ("local", "transient-global")


class OwnBias(T5Attention):
    """A bias that depends on the query's position too."""

    def compute_bias(self, query_length, key_length, device=None, past_seen_tokens=0):
        bias = super().compute_bias(query_length, key_length, device, past_seen_tokens)
        places = torch.arange(query_length, device=bias.device) + past_seen_tokens
        keys = torch.arange(key_length, device=bias.device)
        return bias + torch.sin(places[:, None] * keys)


def make(cls="T5ForConditionalGeneration", config="T5Config", **sizes):
    torch.manual_seed(0)
    made = getattr(transformers, config)(vocab_size=VOCAB, pad_token_id=0, eos_token_id=2, **T5 | sizes)
    return getattr(transformers, cls)(made).eval()


def longt5(kind):
    sizes = {"local_radius": 4, "global_block_size": 4, "encoder_attention_type": kind}
    return make("LongT5EncoderModel", "LongT5Config", **sizes)


def logits(model):
    with torch.no_grad():
        return model(**PADDED).logits


def encoder_layers(model):
    return [block.layer[0].SelfAttention for block in model.encoder.block]


def test_a_subclass_with_a_bias_of_its_own():
    """Its bias may depend on more than the distance: the layers that add it stay dense, and exact."""
    model = make()
    encoder_layers(model)[0].__class__ = OwnBias
    assert not torch.equal(logits(model), logits(make()))
    expected = logits(model)
    report = lckernels.patch(model)
    close(logits(model), expected, slice(None))
    kinds = {row.layer.partition(".")[0]: [] for row in report.rows}
    for row in report.rows:
        kinds[row.layer.partition(".")[0]].append(row.kind)
    assert kinds == {"encoder": ["dense"] * 2, "decoder": ["causal", "cross"] * 2}
    lckernels.unpatch(model)
    assert torch.equal(logits(model), expected)


def test_an_encoder_with_a_bias_of_its_own():
    """Nothing is left for lckernels: one message."""
    model = make("T5EncoderModel", is_encoder_decoder=False)
    encoder_layers(model)[0].__class__ = OwnBias
    with pytest.raises(TypeError, match=r"a patch would do nothing: .* it adds a relative position bias"):
        lckernels.patch(model)


def test_a_method_of_the_instance():
    """A function that the user sets on a layer computes its bias, as without a patch."""
    model = make()
    layer = encoder_layers(model)[0]
    layer.compute_bias = lambda *args, **kwargs: OwnBias.compute_bias(layer, *args, **kwargs)
    layer.__class__ = OwnBias  # for its super()
    expected = logits(model)
    lckernels.patch(model)
    close(logits(model), expected, slice(None))


def test_a_function_set_on_a_layer_of_t5():
    model = make()
    layer = encoder_layers(model)[0]
    own = T5Attention.compute_bias
    layer.compute_bias = lambda *args, **kwargs: own(layer, *args, **kwargs).roll(1, 2)
    expected = logits(model)
    assert not torch.equal(expected, logits(make()))
    lckernels.patch(model)
    close(logits(model), expected, slice(None))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_bias_that_is_passed_to_a_layer(layer):
    model, x = make(), torch.randn(2, 21, 32)
    attention = encoder_layers(model)[layer]
    bias = torch.randn(2, 4, 21, 21)
    with torch.no_grad():
        expected = attention(x, position_bias=bias)
        lckernels.patch(model)
        ours = attention(x, position_bias=bias)
    close(ours[0], expected[0], slice(None))
    assert ours[1] is bias


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_bias_that_is_passed_to_a_layer_of_longt5(layer, kind):
    """One value per query of a block and key of three blocks: the layer's own code."""
    model, x, mask = longt5(kind), torch.randn(2, 21, 32), MASK.flip(1)
    block = model.encoder.block[layer].layer[0]
    attention = block.LocalSelfAttention if kind == "local" else block.TransientGlobalSelfAttention
    bias = torch.randn(1, 1, 4, 5, 15 if kind == "local" else 15 + 21 // 4)
    given = mask
    if kind == "local":
        from transformers.models.longt5.modeling_longt5 import _get_local_attention_mask

        given = _get_local_attention_mask(mask, 5, mask.device)
    with torch.no_grad():
        expected = attention(x, mask=given, position_bias=bias)[0]
        lckernels.patch(model)
        assert torch.equal(attention(x, mask=given, position_bias=bias)[0], expected)
