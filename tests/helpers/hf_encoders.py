"""Tiny random encoders with different attention: softcap, dense masks, none."""

import torch
import transformers
from helpers.encoder_models import FAMILIES, SIZES, WIDE, tiny

COMMON = {**SIZES, **WIDE, "max_position_embeddings": 32, "initializer_range": 0.2}
T5GEMMA = {**WIDE, "vocab_size": 60, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}


def t5gemma_encoder():
    """An encoder with softcap."""
    module = {**T5GEMMA, "num_key_value_heads": 2, "layer_types": ["full_attention"] * 2}
    config = transformers.T5GemmaConfig(encoder=module, decoder=module, vocab_size=60)
    return transformers.T5GemmaModel(config).get_encoder()


def xmod():
    """An encoder that selects rows of a batch by language, which the meta device does not support."""
    return transformers.XmodModel(
        transformers.XmodConfig(**COMMON, languages=["en_XX"], default_language="en_XX")
    )


MODELS = {
    "layoutlm": lambda: transformers.LayoutLMModel(transformers.LayoutLMConfig(**COMMON)),
    "markuplm": lambda: transformers.MarkupLMModel(transformers.MarkupLMConfig(**COMMON)),
    "clip": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**COMMON)),
    "siglip": lambda: transformers.SiglipTextModel(transformers.SiglipTextConfig(**COMMON)),
    "chinese_clip": lambda: transformers.ChineseCLIPTextModel(transformers.ChineseCLIPTextConfig(**COMMON)),
    "esm": lambda: transformers.EsmModel(transformers.EsmConfig(**COMMON, mask_token_id=5)),
    "fnet": lambda: transformers.FNetModel(transformers.FNetConfig(**COMMON)),
    "modernbert": lambda: transformers.ModernBertModel(
        transformers.ModernBertConfig(
            **{**COMMON, "num_hidden_layers": 4}, local_attention=8, cls_token_id=3, sep_token_id=4,
            bos_token_id=3, eos_token_id=4,
        )
    ),
    "xmod": xmod,
    "t5gemma": t5gemma_encoder,
}  # fmt: skip


def make_encoder(name):
    torch.manual_seed(0)
    return (tiny(name) if name in FAMILIES else MODELS[name]()).eval()
