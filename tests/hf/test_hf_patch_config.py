"""The config of a patched model is the user's object: no other model changes, and edits of it have effect."""

# ruff: noqa: E402
import copy
import pickle

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")

from helpers.encoder_models import tiny, token_ids
from helpers.hf_calls import counted_attention
from helpers.hf_patched import IDS, MASK, attributes, close, logits, model_of
from helpers.replicas import replicas_of

import lckernels

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def calls(monkeypatch):
    """The calls of lckernels' attention function."""
    return counted_attention(monkeypatch)


def configs(model):
    return [module.config for module in model.modules() if hasattr(module, "config")]


def test_a_model_from_the_config_of_a_patched_model_is_stock(calls):
    model = model_of("mistral")
    lckernels.patch(model)
    calls.clear()
    other = transformers.MistralForCausalLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    ours = logits(other)
    assert not calls
    assert other.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="MistralForCausalLM, not patched"):
        lckernels.unpatch(other)
    lckernels.unpatch(model)
    assert torch.equal(ours, logits(model))


@pytest.mark.parametrize("unpatched", [False, True])
def test_a_layer_from_the_config_of_a_patched_model_is_stock(calls, unpatched):
    model = model_of("mistral")
    lckernels.patch(model)
    decoder = model.model
    layer = type(decoder.layers[0])(decoder.layers[0].self_attn.config, 0).eval()
    layer.load_state_dict(decoder.layers[0].state_dict())
    if unpatched:
        lckernels.unpatch(model)
    calls.clear()
    states = torch.randn(2, 21, 32)
    positions = decoder.rotary_emb(states, torch.arange(21)[None])
    with torch.no_grad():
        layer(states, position_embeddings=positions, attention_mask=None)
    assert not calls


def test_the_configs_are_the_same_objects():
    model = model_of("mistral")
    before, implementation = configs(model), model.config._attn_implementation
    lckernels.patch(model)
    logits(model)
    assert all(now is config for now, config in zip(configs(model), before, strict=True))
    assert type(model.config) is transformers.MistralConfig
    assert model.config._attn_implementation == implementation
    assert copy.deepcopy(model.config).to_dict() == model.config.to_dict()
    assert pickle.loads(pickle.dumps(model.config)).to_dict() == model.config.to_dict()


def test_edits_of_the_config_have_effect_while_patched():
    model = model_of("mistral")
    given = {"input_ids": IDS, "attention_mask": MASK}
    lckernels.patch(model)
    wide = logits(model, **given)
    model.config.sliding_window = 3  # read for each mask
    narrow = logits(model, **given)
    lckernels.unpatch(model)
    close(narrow, logits(model, **given))
    assert not torch.equal(narrow, wide)
    with lckernels.patched(model), torch.no_grad():
        assert model(**given).past_key_values is not None
        model.config.use_cache = False
        assert model(**given).past_key_values is None


def test_the_config_of_a_model_in_a_model_is_the_users():
    """A multimodal model reads the config of its language model from its own."""
    model = model_of("mistral")
    model.config.text_config = text = copy.deepcopy(model.config)
    lckernels.patch(model)
    seen = []

    def record(self, *args, **kwargs):
        seen.append(self.config.text_config)
        return type(model).forward(self, *args, **kwargs)

    model.forward = record.__get__(model)
    lckernels.unpatch(model)
    lckernels.patch(model)
    logits(model)
    assert seen[0] is not text and seen[0].__dict__ is text.__dict__
    assert seen[0]._attn_implementation == lckernels.hf.NAME
    assert model.config.text_config is text
    assert copy.copy(seen[0])._attn_implementation == lckernels.hf.NAME
    assert copy.deepcopy(seen[0]).to_dict() == text.to_dict()


def test_a_config_that_replaces_the_models():
    model = model_of("mistral")
    lckernels.patch(model)
    other = copy.deepcopy(model.config)
    other.sliding_window = 3
    for module in model.modules():
        if hasattr(module, "config"):
            module.config = other
    ours = logits(model)
    lckernels.unpatch(model)
    assert model.config is other
    close(ours, logits(model))


def test_set_attn_implementation_while_patched(calls):
    model = model_of("mistral")
    lckernels.patch(model)
    counts = []
    for implementation in ("sdpa", "eager", "sdpa"):
        model.set_attn_implementation(implementation)
        calls.clear()
        logits(model)
        counts.append(len(calls))
    assert counts == [0, 2, 0]
    lckernels.unpatch(model)
    assert {config._attn_implementation for config in configs(model)} == {"sdpa"}


def test_saved_and_copied(tmp_path, calls):
    model = model_of("mistral")
    expected = logits(model)
    lckernels.patch(model)
    model.config.save_pretrained(tmp_path)
    assert "lckernels" not in (tmp_path / "config.json").read_text()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        calls.clear()
        close(logits(twin), expected)
        assert len(calls) == 2
        with torch.no_grad():
            twin.model.embed_tokens.weight.zero_()
        assert not torch.equal(logits(twin), expected)
        lckernels.unpatch(twin)
        calls.clear()
        logits(twin)
        assert not calls
        assert "forward" not in twin.__dict__
    close(logits(model), expected)


def test_a_replica_of_data_parallel_runs_on_its_own_parameters(calls):
    model = tiny()
    lckernels.patch(model)
    (replica,) = replicas_of(model, torch.zeros_like)
    calls.clear()
    with torch.no_grad():
        assert not replica(token_ids(30)[None]).last_hidden_state.any()
    assert len(calls) == 2


def test_a_forward_that_was_set_on_the_instance(calls):
    """A bound method runs as the class's; a function reads lckernels' config, which unpatch takes back."""
    model = model_of("mistral")
    expected, config = logits(model), model.config
    run = model.model.forward
    model.model.forward = lambda *args, **kwargs: run(*args, **kwargs)
    before = attributes(model)
    lckernels.patch(model)
    close(logits(model), expected)
    assert len(calls) == 2
    assert model.model.config.to_dict() == config.to_dict()
    lckernels.unpatch(model)
    assert attributes(model) == before
    assert torch.equal(logits(model), expected)


def test_a_forward_that_is_set_while_patched(calls):
    model = model_of("mistral")
    expected = logits(model)
    lckernels.patch(model)
    run = model.model.forward
    model.model.forward = lambda *args, **kwargs: run(*args, **kwargs)
    calls.clear()
    close(logits(model), expected)
    assert len(calls) == 2
    lckernels.unpatch(model)
    calls.clear()
    assert torch.equal(logits(model), expected)
    assert not calls


@pytest.mark.parametrize("first", ["patch", "hooks"])
def test_hooks_of_accelerate(first, calls):
    hooks = pytest.importorskip("accelerate", reason="the hooks are accelerate's").hooks
    model = model_of("mistral")
    expected = logits(model)
    for step in ("patch", "hooks") if first == "patch" else ("hooks", "patch"):
        if step == "patch":
            before = attributes(model)
            lckernels.patch(model)
        else:
            hooks.add_hook_to_module(model.model, hooks.AlignDevicesHook("cpu"))
            hooks.add_hook_to_module(model.model.layers[0].self_attn, hooks.AlignDevicesHook("cpu"))
    calls.clear()
    close(logits(model), expected)
    assert len(calls) == 2
    lckernels.unpatch(model)
    calls.clear()
    assert torch.equal(logits(model), expected)
    assert not calls
    assert first == "patch" or attributes(model) == before
    hooks.remove_hook_from_module(model, recurse=True)
    assert torch.equal(logits(model), expected)


def test_the_signature_of_forward_remains():
    import inspect

    model = model_of("mistral")
    before = inspect.signature(model.forward)
    lckernels.patch(model)
    assert inspect.signature(model.forward) == before
