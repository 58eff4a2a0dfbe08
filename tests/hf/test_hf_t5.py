"""T5's relative position bias under lckernels.patch: one value per head and distance, no dense bias."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_masks import LargestTensor
from helpers.hf_models import MODELS, SWITCH, T5, VOCAB, has
from helpers.hf_patched import IDS, MASK, logits

import lckernels
from lckernels.hf import position_bias
from lckernels.hf.family import replacements
from lckernels.hf.interface import attention
from lckernels.hf.masks.descriptor import NotServed

pytestmark = pytest.mark.usefixtures("one_thread")

umt5_is_causal = pytest.mark.skipif(not has("umt5"), reason=MODELS["umt5"].wrong)
DECODER_IDS = torch.randint(5, VOCAB, (2, 13), generator=torch.Generator().manual_seed(4))
UMT5 = pytest.param("umt5", marks=umt5_is_causal)
BUCKETS = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}
CLASSES = {
    "t5": ("T5ForConditionalGeneration", "T5Config"),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config"),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Config"),
    "switch": ("SwitchTransformersForConditionalGeneration", "SwitchTransformersConfig"),
    "longt5": ("LongT5ForConditionalGeneration", "LongT5Config"),
    "pop2piano": ("Pop2PianoForConditionalGeneration", "Pop2PianoConfig"),
}


def make(name="t5", dtype=torch.float32, **sizes):
    torch.manual_seed(0)
    if name == "switch":
        sizes = SWITCH | {"num_experts": 4} | sizes
    cls, config = (getattr(transformers, x) for x in CLASSES[name])
    model = cls(config(vocab_size=VOCAB, pad_token_id=0, eos_token_id=2, **T5 | sizes)).eval().to(dtype)
    model.set_attn_implementation("eager")
    for module in model.modules():
        if hasattr(module, "relative_attention_bias"):
            torch.nn.init.normal_(module.relative_attention_bias.weight, std=2)
    return model


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def outputs(model, **more):
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": DECODER_IDS, **more}
    return logits(model, **inputs)


@pytest.mark.parametrize("num_buckets", [32, 8])
@pytest.mark.parametrize("max_distance", [128, 20])
@pytest.mark.parametrize("name", CLASSES)
def test_the_bias_is_that_of_the_layer(name, max_distance, num_buckets):
    """Bit for bit, within and beyond the largest distance, for every number of tokens in the cache."""
    sizes = {"relative_attention_num_buckets": num_buckets, "relative_attention_max_distance": max_distance}
    layers = [m for m in make(name, **sizes).modules() if "compute_bias" in replacements(m)]
    own = [layer for layer in layers if layer.has_relative_attention_bias]
    assert own
    for layer in own:
        bias = replacements(layer)["compute_bias"](layer, 3, 3)
        for seqlen_q, seqlen_k, past in ((300, 300, 0), (1, 290, 289), (7, 300, 20)):
            want = layer.compute_bias(seqlen_q, seqlen_k, past_seen_tokens=past)
            assert torch.equal(position_bias.dense(bias, seqlen_q, seqlen_k, past), want)
    for layer in layers:
        if not layer.has_relative_attention_bias:
            assert replacements(layer)["compute_bias"](layer, 3, 3) is None


@pytest.mark.parametrize("name", ["t5", "mt5", UMT5, "switch", "longt5", "pop2piano"])
def test_outputs(name):
    model = make(name)
    expected = outputs(model)
    report = lckernels.patch(model)
    close(outputs(model), expected)
    assert len(report.taken) == len(report.rows) == 6
    assert {row.verdict for row in report.rows} == {"exact"}
    assert report.unknown == ""
    lckernels.unpatch(model)
    assert torch.equal(outputs(model), expected)


def test_buckets_without_a_last_distance():
    """More buckets of one distance than the largest distance: such a bias stays dense."""
    model = make(relative_attention_num_buckets=32)
    expected = outputs(model)
    report = lckernels.patch(model)
    close(outputs(model), expected)
    assert {(row.layer.partition(".")[0], row.kind) for row in report.rows} == {
        ("encoder", "bidirectional"),
        ("decoder", "dense"),
        ("decoder", "cross"),
    }


def test_no_tensor_has_a_value_per_query_and_key():
    model = make()
    lckernels.patch(model)
    ids = torch.randint(5, VOCAB, (1, 600))
    with LargestTensor() as largest:
        loss = model(input_ids=ids, decoder_input_ids=ids[:, :500]).logits.square().mean()
        loss.backward()
    assert largest.elements < 500 * 500


@pytest.mark.parametrize("checkpoints", [None, False, True], ids=["", "checkpoints", "reentrant"])
@pytest.mark.parametrize("name", ["t5", UMT5, "switch"])
def test_gradients(name, checkpoints):
    def gradients(patched):
        model = make(name, torch.float64).train()
        if patched:
            lckernels.patch(model)
        if checkpoints is not None:
            model.gradient_checkpointing_enable({"use_reentrant": checkpoints})
        model(input_ids=IDS, attention_mask=MASK, labels=DECODER_IDS).loss.backward()
        return {n: p.grad for n, p in model.named_parameters()}

    expected, ours = gradients(False), gradients(True)
    assert any("relative_attention_bias" in name for name in expected)
    for key, want in expected.items():
        torch.testing.assert_close(ours[key], want, rtol=1e-8, atol=1e-10, msg=key)


GENERATE = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 5},
    "a cache of fixed size": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("mode", GENERATE)
@pytest.mark.parametrize("name", ["t5", UMT5, "switch"])
def test_generate(name, mode):
    model = make(name)
    # Longer than the largest distance.
    options = {"max_new_tokens": 24, "min_new_tokens": 24, **GENERATE[mode]}

    def run():
        torch.manual_seed(1)
        return model.generate(input_ids=IDS, attention_mask=MASK, **options)

    expected = run()
    lckernels.patch(model)
    assert torch.equal(run(), expected)


def test_attention_weights():
    model = make()
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": DECODER_IDS}
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
        if not expected["encoder_attentions"]:
            pytest.skip("T5 of this version of transformers returns no weights")
        lckernels.patch(model)
        ours = model(**inputs, output_attentions=True)
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
        for one, other in zip(ours[name], expected[name], strict=True):
            close(one, other)


def band(reach):
    """A dense mask, numbers to add, for queries that see `reach` keys on either side."""
    distance = torch.arange(21) - torch.arange(21)[:, None]
    mask = torch.where(distance.abs() <= reach, 0.0, torch.finfo(torch.float32).min)
    return mask.expand(2, 1, -1, -1)


def test_a_dense_mask():
    encoder = make().get_encoder()
    with torch.no_grad():
        expected = encoder(IDS, attention_mask=band(5))[0]
        lckernels.patch(encoder)
        close(encoder(IDS, attention_mask=band(5))[0], expected)


def test_a_dense_mask_with_a_cache_raises():
    """The position of its queries is not known."""
    query, key = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 7, 8)
    bias = position_bias.by_distance(torch.zeros(2, 9))
    mask = torch.ones(1, 1, 3, 7, dtype=torch.bool)
    with pytest.raises(NotServed, match=r"attention_mask: got a dense mask of 3 queries and 7 keys"):
        attention(torch.nn.Identity(), query, key, key, mask, position_bias=bias)


@pytest.mark.parametrize("name", ["t5", UMT5])
def test_a_window_is_that_of_a_band(name):
    """Two keys on either side in the encoder, the last four in the decoder, all in cross attention."""
    model = make(name)
    causal = torch.ones(13, 13, dtype=torch.bool).tril()
    visible = causal & ~causal.tril(-4)
    mask = torch.where(visible, 0.0, torch.finfo(torch.float32).min).expand(2, 1, -1, -1)
    with torch.no_grad():
        states = model.get_encoder()(IDS, attention_mask=band(2))
        expected = outputs(model, encoder_outputs=states, decoder_attention_mask=mask)
        full = outputs(model, attention_mask=None)
        report = lckernels.patch(model, window=4)
        close(model.get_encoder()(IDS)[0], states[0])
        ours = outputs(model, encoder_outputs=model.get_encoder()(IDS))
    close(ours, expected)
    assert (ours - full).abs().max() > 1e-2
    assert {(row.kind, row.window, row.verdict.partition(":")[0]) for row in report.rows} == {
        ("bidirectional window", (2, 2), "approximate"),
        ("causal window", (3, 0), "approximate"),
        ("cross", (-1, -1), "exact"),
    }


@pytest.mark.parametrize("name", ["t5", UMT5, "switch"])
def test_generate_with_a_window(name):
    """With a cache, whose queries are far from its first keys, as without one."""
    model = make(name)
    lckernels.patch(model, window=4)
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "output_logits": True}
    options |= {"return_dict_in_generate": True}
    ours, expected = (
        model.generate(input_ids=IDS, attention_mask=MASK, use_cache=cached, **options)
        for cached in (True, False)
    )
    assert torch.equal(ours.sequences, expected.sequences)
    close(torch.stack(ours.logits), torch.stack(expected.logits))


@pytest.mark.parametrize("hidden", [slice(0), slice(4), slice(15, None), slice(6, 9)])
def test_switch_with_padding(hidden):
    """Its encoder computes numbers from the 2-D mask itself; all keys of a row may be valid."""
    mask = torch.ones_like(IDS)
    mask[0, hidden] = 0
    model = make("switch")
    expected, states = outputs(model, attention_mask=mask), model.get_encoder()(IDS, attention_mask=mask)[0]
    lckernels.patch(model)
    close(outputs(model, attention_mask=mask), expected)
    close(model.get_encoder()(IDS, attention_mask=mask)[0], states)  # the rows of padding too


def test_copies_are_patched():
    model = make()
    expected = outputs(model)
    lckernels.patch(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        close(outputs(copied), expected)
        lckernels.unpatch(copied)
        assert torch.equal(outputs(copied), expected)


def test_bf16():
    eager, ours = make(dtype=torch.bfloat16), make(dtype=torch.bfloat16)
    exact = outputs(copy.deepcopy(eager).double())
    lckernels.patch(ours)
    error, of_eager = ((outputs(model).double() - exact).abs().max() for model in (ours, eager))
    assert error <= 2 * of_eager + 1e-3


@pytest.mark.parametrize("name", ["t5", pytest.param("switch", marks=pytest.mark.slow)])
def test_compiled(name):
    model = make(name)
    expected = outputs(model)
    lckernels.patch(model)
    torch._dynamo.reset()
    close(outputs(torch.compile(model, backend="aot_eager")), expected)


@pytest.mark.parametrize("implementation", ["lckernels", "model"])
def test_long_encoder(implementation):
    """A row of one chunk has the encoder's states; chunks of a longer row run on lckernels too."""
    encoder = make().get_encoder()
    long = lckernels.LongEncoder(encoder, 30, 6, attention=implementation)
    with torch.no_grad():
        close(long(IDS).last_hidden_state, encoder(IDS).last_hidden_state)
        ids = torch.randint(5, VOCAB, (1, 100))
        other = lckernels.LongEncoder(encoder, 30, 6, attention="model")
        close(long(ids).last_hidden_state, other(ids).last_hidden_state)


def test_udop():
    """The bias of its encoder depends on the boxes of its tokens; that of its decoder on distance alone."""
    kinds = [{"type": kind} for kind in ("1d", "horizontal", "vertical")]
    config = transformers.UdopConfig(
        vocab_size=VOCAB, **T5 | BUCKETS, num_decoder_layers=2, image_size=32, patch_size=16,
        max_2d_position_embeddings=64, relative_bias_args=kinds, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    model = transformers.UdopForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    for bias in (m for m in model.modules() if hasattr(m, "relative_attention_bias")):
        torch.nn.init.normal_(bias.relative_attention_bias.weight, std=2)
    boxes = torch.rand(2, IDS.shape[1], 4, generator=generator).sort(-1).values
    inputs = [{"bbox": boxes}, {"bbox": boxes.flip(1)}, {"bbox": boxes, "pixel_values": images}]
    expected = [outputs(model, **more) for more in inputs]
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    report = lckernels.patch(model)
    for more, want in zip(inputs, expected, strict=True):
        close(outputs(model, **more), want)
    found = {(row.layer.partition(".")[0], row.kind, row.verdict) for row in report.rows}
    assert found == {
        ("encoder", "dense", "left to torch's dense attention: it adds a relative position bias"),
        ("decoder", "causal", "exact"),
        ("decoder", "cross", "exact"),
    }
    with pytest.raises(TypeError, match=r"a patch would do nothing: .*a relative position bias"):
        lckernels.patch(transformers.UdopEncoderModel(config))
