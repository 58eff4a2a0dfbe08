"""Tiny random models of the architectures that have local attention, a few lines each, without a network."""

import inspect
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import transformers
from packaging.version import Version

VOCAB, WINDOW, PAD = 50, 6, 0
# A config gets those of these arguments that it has; two layers, one with a window and one without. Each
# token uses all experts, since rounding in bf16 may choose others than fp32.
COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 128,
    "initializer_range": 0.2, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 4,
    "moe_intermediate_size": 16, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "num_shared_experts": 1, "shared_expert_intermediate_size": 16,
    "first_k_dense_replace": 1, "num_dense_layers": 1,
    "attention_dropout": 0.0, "tie_word_embeddings": False,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """How to build a tiny model, and what it supports.

    Attributes:
        make: name of the model's class.
        config: name of its config's class.
        sizes: arguments of the config that differ from COMMON.
        causal: whether it generates.
        nested: configs that are parts of its config, and their sizes.
        sound: shape of its input, if that is audio.
        truth: the attention implementation that it is compared with.
        recurrent: whether layers without attention carry states from token to token.
        first_position: position of the first token of a sequence.
        since: the first version of transformers that is compared with.
        wrong: what is wrong in earlier ones.
        wrong_static: what is wrong under eager attention with a static cache; the truth is a growing one.
    """

    make: str
    config: str
    sizes: dict[str, Any] = field(default_factory=dict)
    causal: bool = True
    nested: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    sound: tuple[int, ...] = ()
    truth: str = "eager"
    recurrent: bool = False
    first_position: int = 0
    since: str = "5"
    wrong: str = ""
    wrong_static: str = ""


def build(name: str) -> torch.nn.Module:
    """The tiny model, in eval mode, the same weights each time."""
    model = MODELS[name] if name in MODELS else REFUSED[name][0]
    parts = {part: make_config(config, **sizes) for part, (config, sizes) in model.nested.items()}
    config = make_config(model.config, **parts, **model.sizes)
    torch.manual_seed(0)
    made = _class(model.make, type(config).__module__)(config)
    with torch.no_grad():
        for parameter in made.parameters():  # some are uninitialised
            if not torch.isfinite(parameter).all() or parameter.abs().max() > 1e3:
                parameter.normal_(0, 0.2)
    return made.eval()


def _class(name: str, config_module: str) -> type:
    """A model's class; if it is not public, from the module of its config."""
    found = getattr(transformers, name, None)
    return found or getattr(import_module(config_module.replace("configuration_", "modeling_")), name)


def make_config(name: str, **sizes: Any) -> Any:
    """A config of this class with those sizes of COMMON that it has."""
    made = getattr(transformers, name)
    known = set(inspect.signature(made).parameters) | set(getattr(made, "__dataclass_fields__", ()))
    return made(**{**{key: value for key, value in COMMON.items() if key in known}, **sizes})


def has(name: str) -> bool:
    """Whether this version of transformers has the architecture, without a fault of its own."""
    model = MODELS[name] if name in MODELS else REFUSED[name][0]
    return hasattr(transformers, model.config) and Version(transformers.__version__) >= Version(model.since)


def decoder(prefix: str, recurrent: bool = False, **sizes: Any) -> Model:
    return Model(f"{prefix}ForCausalLM", f"{prefix}Config", sizes, recurrent=recurrent)


def text(prefix: str, **sizes: Any) -> Model:
    """A decoder whose config is the text part of a larger config."""
    return Model(f"{prefix}ForCausalLM", f"{prefix}TextConfig", sizes)


def model(prefix: str, part: str = "", **sizes: Any) -> Model:
    """A model without a head, which does not generate."""
    return Model(f"{prefix}{part}Model", f"{prefix}{part}Config", sizes, causal=False)


def deepseek_v4(layer_type: str) -> Model:
    return decoder(
        "DeepseekV4", layer_types=[layer_type] * 2, num_key_value_heads=1, q_lora_rank=16, o_lora_rank=16,
        o_groups=2, hc_mult=2, **INDEX,
    )  # fmt: skip


SWA = {"use_sliding_window": True, "max_window_layers": 0}
MLA = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
INDEX = {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 8}
HYBRID = {"layer_types": ["hybrid_sliding", "hybrid"]}
LINEAR = {
    "layer_types": ["linear_attention", "sliding_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
ROPES = {
    kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    for kind in COMMON["layer_types"]
}
SMALL_TEXT = {
    key: value
    for key, value in COMMON.items()
    if key not in ("first_k_dense_replace", "num_dense_layers") and "expert" not in key
}
ENDS = {"cls_token_id": 1, "sep_token_id": 2}
BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
}  # fmt: skip
# The second layer of the encoder moves its blocks.
PEGASUS_X = {
    "encoder_layers": 2, "block_size": 8, "num_global_tokens": 3, "dropout": 0.0, "init_std": 0.2,
    "decoder_start_token_id": PAD, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 128,
}  # fmt: skip
BIG_BIRD = {"block_size": 4, "num_random_blocks": 1, "sep_token_id": 3}
# Buckets end within a short sequence.
T5 = {
    "d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 9, "decoder_start_token_id": PAD,
}  # fmt: skip
SWITCH = {
    "num_decoder_layers": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 1,
}  # fmt: skip
LONGFORMER = {"attention_window": WINDOW, "sep_token_id": 2}
GPT_NEO = {
    "num_layers": 2,
    "attention_types": [[["global", "local"], 1]],
    "num_heads": 4,
    "window_size": WINDOW,
}
# With a window of their own.
LOCAL: dict[str, Model] = {
    "mistral": decoder("Mistral"),
    "ministral3": decoder("Ministral3"),
    "starcoder2": decoder("Starcoder2"),
    "phi3": decoder("Phi3"),
    "mixtral": decoder("Mixtral"),
    "minimax": decoder("MiniMax", recurrent=True, layer_types=["linear_attention", "full_attention"]),
    "ministral": decoder("Ministral"),
    "olmo3": decoder("Olmo3"),
    "cwm": decoder("Cwm"),
    "qwen2": decoder("Qwen2", **SWA),
    "qwen3": decoder("Qwen3", **SWA),
    "smollm3": decoder("SmolLM3", **SWA),
    "exaone4": decoder("Exaone4"),
    "exaone_moe": decoder("ExaoneMoe"),
    "qwen2_moe": decoder("Qwen2Moe", **SWA),
    "qwen3_moe": decoder("Qwen3Moe", **SWA),
    "phimoe": decoder("Phimoe"),
    "gemma2": decoder("Gemma2", attn_logit_softcapping=2.0),
    "vaultgemma": decoder("VaultGemma", attn_logit_softcapping=2.0),
    "gemma3_text": text("Gemma3"),
    "gemma3_text (encoder)": model("Gemma3", "Text", use_bidirectional_attention=True),
    "gemma3n_text": text(
        "Gemma3n", num_kv_shared_layers=0, hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCAB
    ),
    # With heads of 512, the default of full attention in these, rounding exceeds 1e-5 (docs/huggingface.md).
    "gemma4_text": text(
        "Gemma4", vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8, global_head_dim=16
    ),
    "gemma4_text (encoder)": model(
        "Gemma4", "Text", vocab_size_per_layer_input=VOCAB, hidden_size_per_layer_input=8, global_head_dim=16,
        use_bidirectional_attention="all",
    ),
    "gemma4_unified_text": text("Gemma4Unified", global_head_dim=16),
    "diffusion_gemma": Model(
        "DiffusionGemmaEncoderTextModel",
        "DiffusionGemmaTextConfig",
        {"top_k_experts": 4, "global_head_dim": 16},
        causal=False,
    ),
    "cohere2": decoder("Cohere2"),
    "cohere2_moe": decoder("Cohere2Moe"),
    "cohere_compass": text("CohereCompass", rope_parameters=ROPES),
    "afmoe": decoder("Afmoe"),
    "laguna": decoder("Laguna"),
    "mellum": decoder("Mellum"),
    "dots1": decoder("Dots1"),
    "lfm3": decoder("Lfm3"),
    "muse_glimmer": model("MuseGlimmer", "Text"),
    "muse_spark": model("MuseSpark", "Text"),
    "kolibri1": decoder("Kolibri1"),
    "flint": decoder("Flint"),
    "beam": decoder("Beam"),
    "zaya": decoder("Zaya", recurrent=True, **HYBRID, num_experts_per_tok=1, router_hidden_size=16),
    "recurrent_gemma": decoder(
        "RecurrentGemma", recurrent=True, num_hidden_layers=3, attention_window_size=WINDOW
    ),
    "gpt_oss": decoder("GptOss"),
    "granite_swa": decoder("GraniteSWA"),
    "granitemoe_swa": decoder("GraniteMoeSWA"),
    "mimo_v2_flash": decoder("MiMoV2Flash", v_head_dim=4),
    "deepseek_v4 (windows alone)": deepseek_v4("sliding_attention"),
    "llama4_text": text(
        "Llama4", attention_chunk_size=WINDOW, layer_types=["chunked_attention", "full_attention"],
        intermediate_size_mlp=32,
    ),
    "lara_mini": decoder("LaraMini", recurrent=True, **LINEAR),
    "dory": decoder("Dory", n_input_layers=1, n_output_layers=1),
    # Without a 2-D mask its eager attention is not causal in 5.17.
    "moshi": Model("MoshiForCausalLM", "MoshiConfig", truth="sdpa"),
    "modernbert": model("ModernBert", **ENDS, local_attention=12, global_attn_every_n_layers=2),
    "modernbert-decoder": decoder("ModernBertDecoder", **ENDS, local_attention=12),
    "ultrabert": model("Ultrabert"),
    "embedding_gemma2": model("EmbeddingGemma2", "Text", global_head_dim=16),
    "neomme": model("NeoMME", head_dim=16, embedding_rank=16),
    "openai_privacy_filter": model("OpenAIPrivacyFilter"),
    "step3p7": model("Step3p7", "Text", share_expert_dim=16),
    "t5gemma": Model(
        "T5GemmaForConditionalGeneration",
        "T5GemmaConfig",
        nested={"encoder": ("T5GemmaModuleConfig", {}), "decoder": ("T5GemmaModuleConfig", {})},
    ),
    "mimi": Model(
        "MimiModel",
        "MimiConfig",
        {"num_filters": 4, "codebook_size": 16, "codebook_dim": 8, "vector_quantization_hidden_dimension": 8,
         "upsample_groups": 32, "num_key_value_heads": 4},
        causal=False,
        sound=(1, 38400),
    ),
}  # fmt: skip
# The text parts of vision-language models; in the last two every layer is full by default.
_VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
_MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_T5GEMMA2 = {"text_config": SMALL_TEXT, "vision_config": _VISION, "image_token_id": VOCAB - 1}
LOCAL |= {
    "t5gemma2": Model(
        "T5Gemma2ForConditionalGeneration",
        "T5Gemma2Config",
        {"image_token_index": VOCAB - 1},
        nested={"encoder": ("T5Gemma2EncoderConfig", _T5GEMMA2), "decoder": ("T5Gemma2DecoderConfig", {})},
    ),
    "qwen2_vl_text": model("Qwen2VL", "Text", **SWA, **_MROPE),
    "qwen2_5_vl_text": model("Qwen2_5_VL", "Text", **SWA, **_MROPE),
    "unlimited_ocr_text": model(
        "UnlimitedOcr", "Text", num_key_value_heads=4,
        layer_types=["reference_sliding_attention", "full_attention"],
    ),
    "deepseek_ocr2_text": model(
        "DeepseekOcr2", "Text", num_key_value_heads=4, mlp_layer_types=["dense", "sparse"]
    ),
    "paddleocr_vl_text": model("PaddleOCR", "Text", **_MROPE),
    "gpt_neo": Model(
        "GPTNeoForCausalLM", "GPTNeoConfig", GPT_NEO,
        wrong_static="its own windows count from the last slot of the cache (findings/)",
    ),
    "pegasus_x": Model("PegasusXForConditionalGeneration", "PegasusXConfig", BART | PEGASUS_X),
    # Its attention gets a window that its mask does not have.
    "olmoe": decoder("Olmoe", sliding_window=WINDOW),
}  # fmt: skip
# Full attention in every layer.
FULL: dict[str, Model] = {
    "llama": decoder("Llama"),
    "gpt2": Model(
        "GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128}
    ),
    "opt": decoder("OPT", ffn_dim=32, word_embed_proj_dim=32),
    "mistral (full)": decoder("Mistral", sliding_window=None),
    "gemma": decoder("Gemma"),
    "gpt_neox": decoder("GPTNeoX"),
    "phi": decoder("Phi"),
    "bert": model("Bert"),
    "roberta": Model("RobertaModel", "RobertaConfig", causal=False, first_position=PAD + 1),
    "distilbert": model("DistilBert", dim=32, n_heads=4, n_layers=2, hidden_dim=32),
    "eurobert": model("EuroBert"),
    "bart": Model("BartForConditionalGeneration", "BartConfig", BART),
    "t5": Model("T5ForConditionalGeneration", "T5Config", T5),
    "t5 (encoder)": Model("T5EncoderModel", "T5Config", T5 | {"is_encoder_decoder": False}, causal=False),
    "mt5": Model("MT5ForConditionalGeneration", "MT5Config", T5),
    "umt5": Model(
        "UMT5ForConditionalGeneration", "UMT5Config", T5, since="5.24",
        wrong="in transformers 5.17 UMT5's decoder sees later tokens (findings/)",
    ),
    "longt5": Model("LongT5ForConditionalGeneration", "LongT5Config", T5 | {"local_radius": 4}),
    "longt5 (transient-global)": Model(
        "LongT5ForConditionalGeneration",
        "LongT5Config",
        T5
        | {"local_radius": 4, "global_block_size": 4, "encoder_attention_type": "transient-global"},
    ),
    "longformer": Model("LongformerModel", "LongformerConfig", LONGFORMER, False, first_position=PAD + 1),
    "longformer (global token)": Model(
        "LongformerForSequenceClassification", "LongformerConfig", LONGFORMER, False, first_position=PAD + 1
    ),
    "led": Model("LEDForConditionalGeneration", "LEDConfig", BART | {"attention_window": WINDOW}),
    "switch_transformers": Model(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        T5 | SWITCH,
    ),
}  # fmt: skip
MODELS = {**LOCAL, **FULL}
# Models that lckernels.patch does not support, and its message.
REFUSED = {
    "deepseek_v4 (compressed keys)": (
        deepseek_v4("heavily_compressed_attention"),
        "it adds compressed keys to its attention mask itself",
    ),
    "doge": (decoder("Doge"), "it computes with its attention mask itself"),
    "dots3_note": (text("Dots3Note", **MLA, **INDEX, num_key_value_heads=4), "indices: got Tensor"),
    "inkling": (text("Inkling", **HYBRID), "it adds a relative position bias"),
    "inkling2": (text("Inkling2", **HYBRID), "sinks: got Tensor"),
    "deberta-v2": (model("DebertaV2"), "DebertaV2Model does not go through"),
    "big_bird": (model("BigBird", **BIG_BIRD), "its block-sparse attention has code of its own"),
    "bigbird_pegasus": (
        Model("BigBirdPegasusForConditionalGeneration", "BigBirdPegasusConfig", BART | BIG_BIRD),
        "its block-sparse attention has code of its own",
    ),
}
# Architectures with local attention that are not in the sweep, and why.
NOT_SWEPT = {
    "blt": "padding is part of its patches, where lckernels equals sdpa and not eager",
    "kyutai_speech_to_text": "its input is (batch, seqlen, codebooks + 1)",
    "voxtral_realtime": "its decoder requires times of the audio, its encoder spectrograms",
    "pocket_tts_audio_tokenizer": "its input is audio; there is no tiny model of it",
    "moonshine_streaming": "its input is audio and text; its mask is tested in tests/hf/test_hf_masks.py",
    "muse_glimmer_assistant": "its input is hidden states of another model",
    "gemma4_audio": "its attention has code of its own, in blocks",
    "nemotron_asr_streaming": "it computes with its attention mask itself (all, ~)",
    "esmfold2": "its input is atoms; there is no tiny model of it",
}
