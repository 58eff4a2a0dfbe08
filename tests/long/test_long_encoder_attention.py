"""The attention backend of LongEncoder, and that the results do not depend on it."""

# ruff: noqa: E402
import copy
import sys

import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.compare import assert_as_good_as
from helpers.encoder_models import FAMILIES, pad, tiny, token_ids
from helpers.hf_calls import counted_attention

import lckernels
import lckernels.hf.support
from lckernels.backends import registry
from lckernels.backends.registry import Backend
from lckernels.long.encoder_check import is_transformers_model


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    """As if short rows were not faster on the model's own attention."""
    monkeypatch.setattr(lckernels.hf.support, "SHORT_ROW", 0)


@pytest.fixture
def calls(monkeypatch):
    """Counts calls of lckernels' attention function."""
    return counted_attention(monkeypatch)


@pytest.fixture
def kernel(monkeypatch):
    """As if a backend other than eager supported attention on every device."""
    fast = Backend("fast", {}, reasons=lambda problem: [], unavailable=lambda: "")
    monkeypatch.setattr(lckernels.hf.support, "choose", lambda problem, warn: fast)


@pytest.fixture
def no_kernel(monkeypatch):
    slow = registry.backends()["eager"]
    monkeypatch.setattr(lckernels.hf.support, "choose", lambda problem, warn: slow)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mpnet"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_same_results_on_either(family, side, calls, kernel):
    model = tiny(family)
    ids, mask = pad([token_ids(n) for n in (100, 32, 33, 7, 31, 75)], side)
    with torch.no_grad():
        expected = lckernels.LongEncoder(model, overlap=9, attention="model")(ids, mask).last_hidden_state
        assert not calls
        for attention in ("auto", "lckernels"):
            calls.clear()
            output = lckernels.LongEncoder(model, overlap=9, attention=attention)(ids, mask)
            assert calls
            torch.testing.assert_close(output.last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert model.config._attn_implementation == "sdpa"


def test_gradients_on_either(kernel):
    ids, mask = pad([token_ids(70), token_ids(25)], "right")
    gradients = []
    for attention in ("model", "auto"):
        model = tiny()
        lckernels.LongEncoder(model, 20, 6, attention=attention)(ids, mask).last_hidden_state.sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)


def mobilebert(layers=2):
    """Without normalization: states grow from layer to layer, and rounding errors with them."""
    same = ("hidden_size", "embedding_size", "true_hidden_size", "intra_bottleneck_size")
    config = transformers.MobileBertConfig(
        vocab_size=60, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=40, initializer_range=0.1, **dict.fromkeys(same, 128),
    )  # fmt: skip
    return transformers.MobileBertModel(config)


def modernvbert(layers=8):
    """With weights of std 0.5 scores are in the tens, and rounding changes them."""
    words = transformers.ModernBertConfig(
        vocab_size=60, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        local_attention=16, max_position_embeddings=64, pad_token_id=1, bos_token_id=3, eos_token_id=4,
        cls_token_id=3, sep_token_id=4, initializer_range=0.5, initializer_cutoff_factor=3.0,
    )  # fmt: skip
    picture = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32
    )
    return transformers.ModernVBertModel(
        transformers.ModernVBertConfig(
            text_config=words, vision_config=picture, initializer_range=0.5, image_token_id=0
        )
    )


@pytest.mark.parametrize("build", [mobilebert, modernvbert])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_models_that_enlarge_roundings(build, seed):
    """Any two kinds of attention differ by 1e-5 to 1e-3 here, torch's two as much as any."""
    torch.manual_seed(seed)
    model = build().eval()

    def states(model, attention, implementation="sdpa"):
        model.set_attn_implementation(implementation)
        encoder = lckernels.LongEncoder(model, 20, 6, attention=attention)
        with torch.no_grad():
            return encoder(token_ids(70, seed)[None]).last_hidden_state

    # In fp64 eager would not do: ModernBERT's takes its softmax in fp32.
    truth = states(copy.deepcopy(model).double(), "model")
    torchs = [states(model, "model", name) for name in ("sdpa", "eager")]
    honest = max(torchs, key=lambda x: (x - truth).abs().max())
    assert (honest - truth).abs().max() > 5e-6
    assert_as_good_as(states(model, "lckernels"), truth, honest)


def reason(encoder):
    return encoder.explain(70).attention


def test_the_choice_is_reported(calls, kernel):
    assert reason(lckernels.LongEncoder(tiny(), 20)) == "lckernels"
    assert reason(lckernels.LongEncoder(tiny(), 20, attention="lckernels")) == "lckernels"
    own = reason(lckernels.LongEncoder(tiny(), 20, attention="model"))
    assert own == "the model's own: attention='model'"
    assert "attention    the model's own: attention='model'" in str(
        lckernels.LongEncoder(tiny(), 20, attention="model").explain(70)
    )


def test_short_rows_run_on_the_models_own_attention(calls, kernel, monkeypatch):
    monkeypatch.setattr(lckernels.hf.support, "SHORT_ROW", 20)
    short, long = (lckernels.LongEncoder(tiny(), chunk_len) for chunk_len in (20, 21))
    with torch.no_grad():
        short(token_ids(70)[None])
        long(token_ids(20)[None])
        assert not calls
        long(token_ids(70)[None])
        assert calls
        calls.clear()
        lckernels.LongEncoder(tiny(), 20, attention="lckernels")(token_ids(20)[None])
        assert calls
    assert reason(short).startswith("the model's own: rows of at most 20 tokens")
    assert reason(long) == "lckernels"


def test_without_a_kernel_the_models_attention_is_used(calls, no_kernel):
    encoder = lckernels.LongEncoder(tiny(), 20)
    with torch.no_grad():
        encoder(token_ids(70)[None])
    assert not calls
    assert reason(encoder) == "the model's own: lckernels has no kernel for it on cpu in torch.float32"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "in torch.bfloat16" in reason(encoder)
        assert "in torch.float64" in reason(lckernels.LongEncoder(tiny().double(), 20))


def test_the_environment_is_obeyed(monkeypatch):
    monkeypatch.setattr(lckernels.backends.registry, "settings", lambda: {"backend": "eager"})
    assert "has no kernel for it" in reason(lckernels.LongEncoder(tiny(), 20))


@pytest.mark.parametrize("chosen", ["eager", "flex_attention"])
def test_what_the_user_chose_stays(chosen, calls, kernel):
    model = tiny()
    model.set_attn_implementation(chosen)
    encoder = lckernels.LongEncoder(model, 20)
    assert reason(encoder) == f"the model's own: the model has attn_implementation={chosen!r}"
    if chosen == "eager":
        with torch.no_grad():
            encoder(token_ids(70)[None])
    assert not calls


def test_attention_weights_need_the_models_own(calls, kernel):
    model = tiny()
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    encoder = lckernels.LongEncoder(model, 20)
    with pytest.raises(ValueError, match="output_attentions: got True in the config; LongEncoder"):
        encoder(token_ids(70)[None])
    assert not calls
    assert "output_attentions" in reason(encoder)
    with pytest.raises(TypeError, match="model: got BertModel; attention='lckernels' does not support it"):
        lckernels.LongEncoder(model, 20, attention="lckernels")


def test_a_compiled_model_stays(kernel):
    model = tiny()
    model.compile()
    assert reason(lckernels.LongEncoder(model, 20)) == "the model's own: the model is compiled"


def test_a_model_without_the_interface(calls, kernel):
    encoder = lckernels.LongEncoder(tiny("mpnet"), 20)
    with torch.no_grad():
        encoder(token_ids(70)[None])
    assert not calls
    assert "MPNetModel does not go through" in reason(encoder)


def test_a_model_that_is_not_of_transformers(monkeypatch):
    model = torch.nn.Linear(1, 1)
    assert lckernels.hf.support.unsupported_reasons(model) == ["it is no model of transformers"]
    assert is_transformers_model(tiny())
    assert not is_transformers_model(model)
    monkeypatch.delitem(sys.modules, "transformers")
    assert not is_transformers_model(model)


def test_bad_attention():
    with pytest.raises(ValueError, match="attention: got 'flash'; allowed are auto, lckernels, model"):
        lckernels.LongEncoder(tiny(), 20, attention="flash")
