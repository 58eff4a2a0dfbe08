"""lckernels.patch on a decoder with a sliding window: exact, for this instance only, and undone."""

import copy
import sys
import threading

import pytest
import torch

import lckernels

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.hf_patched import tiny_mistral  # noqa: E402

from lckernels.backends import registry  # noqa: E402
from lckernels.hf.patch.modules import lckernels_attention  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def logits(model, **inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


@pytest.fixture
def tokens():
    return torch.randint(1, 64, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("padding", ["none", "left", "right", "middle"])
def test_results_equal_eager(tokens, padding):
    model, mask = tiny_mistral(), torch.ones_like(tokens)
    hidden = {"none": [], "left": range(9), "right": range(30, 40), "middle": range(12, 17)}[padding]
    mask[0, list(hidden)] = 0
    before = logits(model, input_ids=tokens, attention_mask=mask)
    report = lckernels.patch(model)
    after = logits(model, input_ids=tokens, attention_mask=mask)
    assert len(report.rows) == 2 and "exact" in str(report)
    valid = mask.bool()
    torch.testing.assert_close(after[valid], before[valid], rtol=1e-5, atol=1e-5)
    lckernels.unpatch(model)
    assert torch.equal(logits(model, input_ids=tokens, attention_mask=mask), before)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_gives_the_same_tokens(tokens, cache):
    model = tiny_mistral()
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "cache_implementation": cache}
    want = model.generate(tokens, **options)
    with lckernels.patched(model):
        assert torch.equal(model.generate(tokens, **options), want)


def test_gradients_equal_eager(tokens):
    def gradients(model):
        model.zero_grad()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    model = tiny_mistral()
    want = gradients(model)
    with lckernels.patched(model):
        for got, grad in zip(gradients(model), want, strict=True):
            torch.testing.assert_close(got, grad, rtol=1e-4, atol=1e-6)


def test_only_this_instance_changes(tokens):
    model = tiny_mistral()
    other = type(model)(model.config).eval()
    other.load_state_dict(model.state_dict())
    before = logits(other, input_ids=tokens)
    lckernels.patch(model)
    assert torch.equal(logits(other, input_ids=tokens), before)
    assert other.config._attn_implementation == "eager"


def test_a_window_changes_full_attention_only(tokens):
    full, windowed = tiny_mistral(), tiny_mistral()
    full.config.sliding_window = None
    with lckernels.patched(full, window=7) as report:
        got = logits(full, input_ids=tokens)
    torch.testing.assert_close(got, logits(windowed, input_ids=tokens), rtol=1e-5, atol=1e-5)
    assert "approx" in str(report)


def test_patching_twice_and_unpatching_an_unpatched_model():
    model = tiny_mistral()
    with pytest.raises(ValueError, match="not patched"):
        lckernels.unpatch(model)
    lckernels.patch(model)
    with pytest.raises(ValueError, match="patched already"):
        lckernels.patch(model)
    lckernels.unpatch(model)


def test_copies_are_patched_and_files_are_not(tokens, tmp_path):
    model = tiny_mistral()
    want = logits(model, input_ids=tokens)
    lckernels.patch(model)
    torch.testing.assert_close(logits(copy.deepcopy(model), input_ids=tokens), want, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = transformers.MistralForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert torch.equal(logits(loaded, input_ids=tokens), want)


def test_the_config_may_change_between_patches(tokens):
    model = tiny_mistral()
    with lckernels.patched(model) as report:
        assert {row.window for row in report.rows} == {(6, 0)}
    model.config.sliding_window = 3
    expected = logits(model, input_ids=tokens)
    with lckernels.patched(model) as report:
        assert {row.window for row in report.rows} == {(2, 0)}
        torch.testing.assert_close(logits(model, input_ids=tokens), expected, rtol=1e-5, atol=1e-5)


def test_fields_set_on_a_patched_config_remain():
    model = tiny_mistral()
    config, other = model.config, copy.deepcopy(model.config)
    lckernels.patch(model)
    model.config.use_cache = False
    model.config.id2label[0] = "new"
    model.resize_token_embeddings(80)
    config.pad_token_id = 7  # on the original config
    lckernels.unpatch(model)
    assert model.config is config
    other.use_cache, other.vocab_size, other.pad_token_id = False, 80, 7
    other.id2label[0] = "new"
    assert model.config.to_dict() == other.to_dict()
    assert model.config._attn_implementation == "eager"


def test_a_failed_patch_changes_nothing(monkeypatch):
    def fail(module, *args):
        if isinstance(module, type(model.model.layers[1].self_attn)) and module.layer_idx == 1:
            raise RuntimeError("fail")
        return {}

    model = tiny_mistral()
    before = [dict(module.__dict__) for module in model.modules()]
    monkeypatch.setattr(sys.modules["lckernels.hf.patch.modules"], "replacements", fail)
    with pytest.raises(RuntimeError, match="fail"):
        lckernels.patch(model)
    assert [dict(module.__dict__) for module in model.modules()] == before


def test_a_config_that_cannot_be_copied(tokens):
    """The dry run copies the model; what a patch does requires no copy."""
    model = tiny_mistral()
    before = logits(model, input_ids=tokens)
    model.config.lock = threading.Lock()
    report = lckernels.patch(model)
    assert "cannot pickle" in report.unknown
    torch.testing.assert_close(logits(model, input_ids=tokens), before, rtol=1e-5, atol=1e-5)
    lckernels.unpatch(model)


@pytest.mark.parametrize("first", ["patch", "context"])
def test_a_patch_during_a_call_of_a_long_encoder(tokens, first):
    model = tiny_mistral()
    attributes = [dict(module.__dict__) for module in model.modules()]
    before = logits(model, input_ids=tokens)
    context = lckernels_attention(model)
    context.__enter__()
    lckernels.patch(model)
    if first == "patch":
        lckernels.unpatch(model)
        context.__exit__(None, None, None)
    else:
        context.__exit__(None, None, None)
        after = logits(model, input_ids=tokens)
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
        assert not torch.equal(after, before)
        lckernels.unpatch(model)
    assert [dict(module.__dict__) for module in model.modules()] == attributes
    assert torch.equal(logits(model, input_ids=tokens), before)


def test_bad_arguments():
    with pytest.raises(TypeError, match="no full attention"):
        lckernels.patch(tiny_mistral(), window=3)
    with pytest.raises(TypeError, match="model: got Linear"):
        lckernels.patch(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="positions"):
        lckernels.patch(tiny_mistral(), positions="cache")
    with pytest.raises(ValueError, match="backend"):
        lckernels.patch(tiny_mistral(), backend="none")
    with pytest.raises(ValueError, match="got OptimizedModule, compiled; patch the model, then"):
        lckernels.patch(torch.compile(tiny_mistral()))


def test_without_a_kernel_it_is_an_error(monkeypatch):
    """The reference, which stores all scores, runs only with backend="eager"."""
    monkeypatch.setattr(registry.backends()["cpu"], "reasons", lambda problem: ["no"])
    model = tiny_mistral()
    with pytest.raises(lckernels.BackendError, match="lckernels has no kernel for it on cpu in"):
        lckernels.patch(model)
    assert lckernels.patch(model, backend="eager").rows[0].backend == "eager"


def test_a_layer_that_a_wrapper_also_has_under_another_name():
    class Wrapper(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.first = model.model.layers[0]
            self.model = model

        def forward(self, *args, **options):
            return self.model(*args, **options)

    model = tiny_mistral()
    wrapper = Wrapper(model)
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        expected = wrapper(ids).logits
        report = lckernels.patch(wrapper)
        close = torch.testing.assert_close
        close(wrapper(ids).logits, expected, rtol=1e-4, atol=1e-5)
    assert len(report.taken) == 2
