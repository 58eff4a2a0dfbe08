"""The notes of a report: fields of a model's config with another effect than their names."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.hf_models import MODELS, WINDOW, build, has, make_config

import lckernels
from lckernels.hf.family import Family, register_family, unregister_family
from lckernels.hf.patch.config_notes import config_notes
from lckernels.hf.patch.dry_run import padded_dry_run
from lckernels.hf.patch.stored_config import stored_notes

KEYS = "and a token sees {} keys, itself and {} before it and {} after it"
BOTH = KEYS.format(2 * WINDOW + 1, WINDOW, WINDOW)
# Of models of the parity sweep; its other models have no notes.
SWEPT = {
    **{
        name: ["config.use_sliding_window is True and 1 of 2 layers has a window"]
        for name in ("qwen2", "qwen3", "smollm3", "qwen2_moe", "qwen2_vl_text", "qwen2_5_vl_text")
    },
    "gemma3_text (encoder)": [
        f"config.sliding_window is 4 {KEYS.format(7, 3, 3)}: it is stored as 6",
    ],
    "gemma4_text (encoder)": [
        f"config.sliding_window is 4 {KEYS.format(9, 4, 4)}: it is stored as 6; "
        "under flash attention it sees 3 on either side",
    ],
    "moshi": [
        "config.sliding_window is 6 and no layer has a window: its cache alone drops older keys, so that a "
        "step of generation sees fewer than a forward"
    ],
    "olmoe": [
        "config.sliding_window is 6 and no layer has a window: its cache alone drops older keys, so that a "
        "step of generation sees fewer than a forward; flash attention, which gets it as an option, would "
        "have one of 6 keys"
    ],
    "modernbert-decoder": ["config.local_attention is 12 and a token sees 6 keys, itself and 5 before it"],
    **{
        name: [f"config.sliding_window is 6 {BOTH}"]
        for name in ("ultrabert", "embedding_gemma2", "neomme", "openai_privacy_filter")
    },
    "t5gemma": [
        f"config.encoder.sliding_window is 6 {BOTH}: under flash attention it sees 5 on either side"
    ],
    "t5gemma2": [
        f"config.encoder.text_config.sliding_window is 6 {KEYS.format(6, 2, 3)}: "
        "under flash attention it sees 5 on either side"
    ],
}  # fmt: skip


def notes_of(model):
    return list(config_notes(model, padded_dry_run(model)))


def make(model, config, **sizes):
    torch.manual_seed(0)
    return getattr(transformers, model)(make_config(config, **sizes)).eval()


def qwen2(**sizes):
    options = {"use_sliding_window": True, "layer_types": None, **sizes}
    return make("Qwen2Model", "Qwen2Config", **options)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_sweep(name):
    if not has(name):
        pytest.skip("not in this version of transformers")
    assert notes_of(build(name)) == SWEPT.get(name, [])


def test_layers_from_max_window_layers_on():
    why = "use_sliding_window slides only layers from max_window_layers = {} on; the model has 2"
    assert notes_of(qwen2()) == [
        f"config.sliding_window is {WINDOW} and no layer has a window: {why.format(28)}"
    ]
    assert notes_of(qwen2(max_window_layers=1)) == [
        f"config.use_sliding_window is True and 1 of 2 layers has a window: {why.format(1)}"
    ]
    assert notes_of(qwen2(max_window_layers=0)) == []
    assert notes_of(qwen2(use_sliding_window=False)) == []


def test_every_layer_despite_max_window_layers():
    model = make("Qwen3MoeModel", "Qwen3MoeConfig", use_sliding_window=True, max_window_layers=28)
    assert notes_of(model) == ["config.max_window_layers is 28 and 2 of 2 layers have a window"]


def test_layer_types_without_a_window():
    model = make("Olmo3Model", "Olmo3Config", layer_types=["full_attention"] * 2)
    assert notes_of(model) == [
        f"config.sliding_window is {WINDOW} and no layer has a window: layer_types names no layers with one"
    ]
    llama4 = make(
        "Llama4TextModel", "Llama4TextConfig", attention_chunk_size=WINDOW, intermediate_size_mlp=32,
        layer_types=["full_attention"] * 2,
    )  # fmt: skip
    assert notes_of(llama4) == [
        f"config.attention_chunk_size is {WINDOW} and no layer has a window: "
        "layer_types names no layers with one"
    ]


@pytest.mark.parametrize(
    "module, name, sizes",
    [
        (
            "paddleocr_vl",
            "PaddleOCRText",
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
        ),
        ("deepseek_ocr2", "DeepseekOcr2Text", {"num_key_value_heads": 4, "mlp_layer_types": ["dense"] * 2}),
    ],
)
def test_a_window_that_the_mask_does_not_have(module, name, sizes):
    modeling = pytest.importorskip(f"transformers.models.{module}.modeling_{module}")
    config = make_config(f"{name}Config", **sizes)
    config.sliding_window = WINDOW
    (note,) = notes_of(getattr(modeling, f"{name}Model")(config).eval())
    assert note.startswith(f"config.sliding_window is {WINDOW} and no layer has a window")


def test_a_window_as_long_as_the_positions():
    model = make("MistralModel", "MistralConfig", sliding_window=128)
    assert notes_of(model) == [
        "config.sliding_window is 128 and hides no key: max_position_embeddings is 128"
    ]
    assert notes_of(make("MistralModel", "MistralConfig", sliding_window=127)) == []
    assert notes_of(make("MistralModel", "MistralConfig", sliding_window=2**31)) == []


def test_no_window():
    for name in ("Phi3", "Starcoder2", "Mistral"):
        assert notes_of(make(f"{name}Model", f"{name}Config", sliding_window=None)) == []


def test_layers_that_lckernels_does_not_see():
    """Layers with code of their own have no notes."""
    assert notes_of(make("DebertaV2Model", "DebertaV2Config")) == []


def test_global_layers_alone():
    """GPT-Neo has a window_size whatever its attention_types are."""
    sizes = {"num_layers": 2, "num_heads": 4, "window_size": WINDOW}
    model = make("GPTNeoModel", "GPTNeoConfig", **sizes, attention_types=[[["global"], 2]])
    (note,) = notes_of(model)
    assert note.startswith(
        f"config.window_size is {WINDOW} and no layer has a window: attention_layers names no"
    )
    model = make("GPTNeoModel", "GPTNeoConfig", **sizes, attention_types=[[["global", "local"], 1]])
    assert notes_of(model) == []


def test_a_cache_that_alone_has_the_window():
    """The note of Moshi: the last token's state differs between a forward and steps of generation."""
    model, ids = build("moshi"), torch.randint(3, 50, (1, 4 * WINDOW))
    with torch.no_grad():
        forward = model(ids, use_cache=False).logits[0]
        cache, steps = transformers.DynamicCache(config=model.config), []
        for at in range(ids.shape[1]):
            steps.append(model(ids[:, at : at + 1], past_key_values=cache, use_cache=True).logits[0, -1])
    off = (forward - torch.stack(steps)).abs().amax(-1)
    assert off[:WINDOW].max() < 1e-4 < 1e-2 < off[-1]


def moonshine():
    sizes = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 4,
    }  # fmt: skip
    encoder = {**sizes, "sliding_windows": [[4, 2]]}
    config = transformers.MoonshineStreamingConfig(
        **sizes, vocab_size=50, pad_token_id=0, encoder_config=encoder
    )
    torch.manual_seed(0)
    return transformers.MoonshineStreamingModel(config).eval()


@pytest.mark.skipif(not hasattr(transformers, "MoonshineStreamingModel"), reason="transformers is older")
def test_windows_that_need_a_mask():
    model = moonshine()
    (note,) = notes_of(model)
    assert note.startswith("config.encoder_config.sliding_windows is [[4, 2]]: only a call with an attention")
    seen = []
    for options in ({}, {"attention_mask": torch.ones(1, 16000, dtype=torch.long)}):
        sound = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)).requires_grad_()
        states = model.encoder(sound, **options).last_hidden_state
        (gradient,) = torch.autograd.grad(states[0, 0, 0], sound)
        seen.append(gradient[0].nonzero().max().item())
    assert seen[0] > 15000 and seen[1] < 8000  # the last sample on which the first frame depends


@pytest.mark.parametrize(
    "rope_type, sizes",
    [
        ("dynamic", {"factor": 4.0}),
        (
            "longrope",
            {
                "short_factor": [1.0] * 4,
                "long_factor": [4.0] * 4,
                "original_max_position_embeddings": 32,
                "factor": 4.0,
            },
        ),
    ],
)
def test_frequencies_that_depend_on_other_rows(rope_type, sizes):
    rope = {"rope_type": rope_type, "rope_theta": 1e4, **sizes}
    model = make("LlamaModel", "LlamaConfig", max_position_embeddings=32, rope_parameters=rope)
    (note,) = notes_of(model)
    assert note.startswith(f"rope_type {rope_type!r} ") and "depend" in note
    ids = torch.randint(3, 50, (1, 40 if rope_type == "dynamic" else 20))
    mask = torch.zeros(2, 100, dtype=torch.long)
    mask[0, : ids.shape[1]] = mask[1] = 1
    both = torch.randint(3, 50, (2, 100))
    both[0, : ids.shape[1]] = ids
    with torch.no_grad():
        alone = model(ids).last_hidden_state[0]
        beside = model(both, attention_mask=mask).last_hidden_state[0, : ids.shape[1]]
    assert (alone - beside).abs().max() > 1e-2


def test_where_the_notes_are():
    model = qwen2()
    (note,) = notes_of(model)
    report = lckernels.patch(model)
    assert report.notes == (note,)
    assert f"\nnote: {note}" in str(report)
    encoder = make("ModernBertModel", "ModernBertConfig", local_attention=4096, max_position_embeddings=128)
    explained = lckernels.LongEncoder(encoder, 64, 8, special_tokens=(0, 0)).explain(200)
    (note,) = notes_of(encoder)
    assert explained.notes == (note,)
    assert f"\nnote         {note}" in str(explained)


def test_a_family_has_notes_of_its_own():
    notes = {"hidden_size": "a number", "sliding_window": "of no use"}
    register_family(Family(name="olmoe", config_notes=lambda config: notes))
    try:
        found = notes_of(build("olmoe"))
    finally:
        unregister_family("olmoe")
    assert found[0].startswith(f"config.sliding_window is {WINDOW} and no layer has a window: of no use; its")
    assert found[1] == "config.hidden_size is 32: a number"


def test_the_stored_config():
    config = transformers.Qwen2Config(sliding_window=4096)
    assert stored_notes({"sliding_window": 4096}, config) == [
        "config.sliding_window is None, config.json has 4096: use_sliding_window is False"
    ]
    assert stored_notes({"sliding_window": None}, config) == []
    mistral = transformers.MistralConfig()
    assert stored_notes({}, mistral) == [
        "config.sliding_window is 4096, the default of MistralConfig; config.json has none"
    ]
    assert stored_notes({"sliding_window": 4096}, mistral) == []
    assert stored_notes({}, transformers.MistralConfig(sliding_window=None)) == []
