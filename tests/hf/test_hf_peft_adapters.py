"""PEFT's adapters under a patch: trained, switched, disabled, merged, unloaded as without it."""

# ruff: noqa: E402

import warnings
from contextlib import nullcontext

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="patching needs transformers")
peft = pytest.importorskip("peft")

from helpers.hf_patched import attributes
from helpers.packed_linear import count_products, packed_layers, packs, set_speed
from helpers.peft_models import decoder, encoder, masked

import lckernels
from lckernels.hf.patch.modules import is_patched

IDS = torch.randint(5, 64, (2, 14), generator=torch.Generator().manual_seed(3))
MASK = torch.ones_like(IDS)
MASK[1, :5] = 0
LABELS = IDS.masked_fill(MASK == 0, -100)
LABELS[1, 5] = -100  # the query that predicts it is padding
LAYERS = ["q_proj", "v_proj", "down_proj"]
LINEAR = {"target_modules": LAYERS}
RANK = LINEAR | {"r": 4}
_RANKS = {"init_r": 4, "target_r": 2, "total_step": 6, "tinit": 1, "tfinal": 1, "init_lora_weights": False}
_TOKENS = {"target_modules": ["embed_tokens"], "token_indices": [5, 6]}
# By method: class and options of its config. The first weights have an effect where an option allows it.
METHODS = {
    "LoRA": ("LoraConfig", RANK | {"init_lora_weights": False}),
    "DoRA": ("LoraConfig", RANK | {"init_lora_weights": False, "use_dora": True}),
    "AdaLoRA": ("AdaLoraConfig", LINEAR | _RANKS),
    "IA3": ("IA3Config", LINEAR | {"feedforward_modules": ["down_proj"], "init_ia3_weights": False}),
    "VeRA": ("VeraConfig", RANK | {"init_weights": False}),
    "OFT": ("OFTConfig", LINEAR | {"oft_block_size": 4, "init_weights": False}),
    "BOFT": ("BOFTConfig", LINEAR | {"boft_block_size": 4, "init_weights": False}),
    "LoHa": ("LoHaConfig", RANK | {"init_weights": False}),
    "LoKr": ("LoKrConfig", RANK | {"init_weights": False}),
    "HRA": ("HRAConfig", RANK | {"init_weights": False}),
    "FourierFT": ("FourierFTConfig", LINEAR | {"n_frequency": 50}),
    "MiSS": ("MissConfig", RANK | {"init_weights": False}),
    "SHiRA": ("ShiraConfig", RANK | {"init_weights": False}),
    "RoAd": ("RoadConfig", LINEAR | {"group_size": 4, "init_weights": False}),
    "C3A": ("C3AConfig", LINEAR | {"block_size": 8, "init_weights": False}),
    "WaveFT": ("WaveFTConfig", LINEAR | {"n_frequency": 50}),
    "DeLoRA": ("DeloraConfig", RANK | {"init_weights": False}),
    "GraLoRA": ("GraloraConfig", RANK),
    "LN tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "trainable tokens": ("TrainableTokensConfig", _TOKENS),
    "adaption prompt": ("AdaptionPromptConfig", {"adapter_len": 4, "adapter_layers": 2}),
    "BEFT": ("BeftConfig", {"target_modules": ["v_proj"]}),
    "ShadowPEFT": ("ShadowConfig", {}),
}
NO_MERGE = ("adaption prompt", "BEFT", "ShadowPEFT")
ONE_ADAPTER = ("AdaLoRA", "ShadowPEFT")
STEPS = {"AdaLoRA": 0.01}  # at 0.1 three steps multiply rounding errors by 50
WINDOWED = ("LoRA", "AdaLoRA", "IA3", "OFT", "adaption prompt")


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def config(method):
    name, options = METHODS[method]
    return getattr(peft, name)(task_type="CAUSAL_LM", **options)


def adapted(base, method, seed=1):
    torch.manual_seed(seed)
    return peft.get_peft_model(base, config(method)).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).logits[MASK.bool()]


def train(model, method):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], STEPS.get(method, 0.1))
    for step in range(3):
        model(input_ids=IDS, attention_mask=MASK, labels=LABELS).loss.backward()
        optimizer.step()
        if method == "AdaLoRA":
            model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.eval()


def stages(model, method):
    """The logits after each step of an adapter's life, by the step's name."""
    found = {"first": logits(model)}
    train(model, method)
    found["trained"] = logits(model)
    with model.disable_adapter():
        found["disabled"] = logits(model)
    if method not in ONE_ADAPTER:
        torch.manual_seed(2)
        model.add_adapter("second", config(method))
        model.set_adapter("second")
        found["second"] = logits(model)
        model.set_adapter("default")
        found["default again"] = logits(model)
    if method not in NO_MERGE:
        model.merge_adapter()
        found["merged"] = logits(model)
        model.unmerge_adapter()
        found["unmerged"] = logits(model)
        found["unloaded"] = logits(model.merge_and_unload())
    return found


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, theirs in expected.items():
        scale = max(theirs.abs().max().item(), 1.0)
        error = (got[name] - theirs).abs().max().item()
        assert error <= 2e-5 * scale, f"{name}: {error}"


@pytest.mark.parametrize("method", METHODS)
def test_the_life_of_an_adapter(method):
    """Patched before and after get_peft_model; training has an effect, and so has the adapter."""
    expected = stages(adapted(decoder(), method), method)
    assert (expected["trained"] - expected["first"]).abs().max() > 1e-4
    assert (expected["trained"] - expected["disabled"]).abs().max() > 1e-4
    base = decoder()
    lckernels.patch(base)
    assert_same(stages(adapted(base, method), method), expected)
    model = adapted(decoder(), method)
    lckernels.patch(model)
    assert_same(stages(model, method), expected)


@pytest.mark.parametrize("method", WINDOWED)
def test_the_life_of_an_adapter_with_a_window(method):
    model = adapted(decoder(), method)
    with masked(model, 5, 2, virtual=0):
        expected = stages(model, method)
    whole = stages(adapted(decoder(), method), method)
    assert all((expected[name] - whole[name]).abs().max() > 1e-3 for name in expected)
    for first in ("patch", "peft"):
        base = decoder()
        if first == "patch":
            lckernels.patch(base, window=5, sink_tokens=2)
        model = adapted(base, method)
        if first == "peft":
            lckernels.patch(model, window=5, sink_tokens=2)
        assert_same(stages(model, method), expected)


@pytest.mark.skipif(not packs(), reason="this torch has no packed weights")
@pytest.mark.parametrize("method", ["LoRA", "DoRA", "IA3", "OFT", "LoKr", "SHiRA"])
def test_packed_weights_follow_every_step(method, monkeypatch):
    """Merging, unmerging and unloading change weights that are packed."""
    set_speed(monkeypatch)
    products = count_products(monkeypatch)
    expected = stages(adapted(decoder(), method), method)
    model = adapted(decoder(), method)
    lckernels.patch(model, linear="packed")
    assert packed_layers(model)
    assert_same(stages(model, method), expected)
    assert products


@pytest.mark.parametrize("unpatched", ["before", "after", "as PEFT's model"])
@pytest.mark.parametrize("first", ["patch", "peft"])
@pytest.mark.parametrize("linear", [None, "packed"])
def test_unpatch_and_unload_in_either_order(first, unpatched, linear, monkeypatch):
    set_speed(monkeypatch)
    expected = logits(adapted(decoder(), "LoRA").merge_and_unload())
    base = decoder()
    if first == "patch":
        lckernels.patch(base, linear=linear)
    model = adapted(base, "LoRA")
    if first == "peft":
        lckernels.patch(model, linear=linear)
    if unpatched == "before":
        lckernels.unpatch(model)
    plain = model.merge_and_unload()
    if unpatched != "before":
        torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-5)
        lckernels.unpatch(plain if unpatched == "after" else model)
    assert plain is base and not is_patched(plain) and not is_patched(model) and not packed_layers(plain)
    torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-5)
    names = [sorted(own) for own in attributes(adapted(decoder(), "LoRA").merge_and_unload())]
    assert [sorted(own) for own in attributes(plain)] == names
    lckernels.patch(plain, linear=linear)  # again, as any model
    torch.testing.assert_close(logits(plain), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 6])
def test_an_encoder_with_lora(window):
    options = {"target_modules": ["query", "value", "dense"], "r": 4, "init_lora_weights": False}

    lora = peft.LoraConfig(task_type="FEATURE_EXTRACTION", **options)

    def life(patch):
        torch.manual_seed(1)
        model = peft.get_peft_model(encoder(), lora).eval()
        with patch(model), torch.no_grad():
            run = lambda: model(input_ids=IDS, attention_mask=MASK)[0][MASK.bool()]  # noqa: E731
            found = {"first": run()}
            model.merge_adapter()
            found["merged"] = run()
            model.unmerge_adapter()
            with model.disable_adapter():
                found["disabled"] = run()
        return found

    reference = nullcontext if window is None else lambda model: masked(model, window, 0, virtual=0)
    assert_same(life(lambda model: lckernels.patched(model, window=window)), life(reference))
