"""Tiny models of text and images, and a call with one image."""

import torch
import transformers
from helpers.hf_cross import TEXT, random, tokens
from helpers.hf_models import VOCAB

IMAGE = VOCAB - 1  # the token that an image replaces
DECODER = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4, "initializer_range": 0.2,
}  # fmt: skip
QWEN_VISION = {
    "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "mlp_ratio": 2,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


def text_and_image(num_images: int) -> dict[str, torch.Tensor]:
    """One row of ten tokens, some of which are replaced by the image."""
    ids = tokens(10)[:1].clamp(max=IMAGE - 1)
    ids[:, 2 : 2 + num_images] = IMAGE
    return {"input_ids": ids, "use_cache": False}


def llava():
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**DECODER),
        vision_config=transformers.CLIPVisionConfig(**{**VISION, "image_size": 8}),
        image_token_id=IMAGE,
        vision_feature_layer=-1,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    return model, {**text_and_image(4), "pixel_values": random(1, 3, 8, 8)}


def gemma3():
    config = transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(
            **DECODER, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
        ),
        vision_config=transformers.SiglipVisionConfig(**VISION),
        mm_tokens_per_image=4,
        image_token_id=IMAGE,
    )
    model = transformers.Gemma3ForConditionalGeneration(config)
    inputs = text_and_image(4)
    types = (inputs["input_ids"] == IMAGE).long()
    return model, {**inputs, "pixel_values": random(1, 3, 16, 16), "token_type_ids": types}


def qwen2_vl():
    config = transformers.Qwen2VLConfig(
        text_config={**DECODER, "rope_parameters": ROPE}, vision_config=QWEN_VISION, image_token_id=IMAGE
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    inputs = text_and_image(4)
    types = (inputs["input_ids"] == IMAGE).long()
    image = {"pixel_values": random(16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return model, {**inputs, **image, "mm_token_type_ids": types}


MODELS = {"llava": llava, "gemma3": gemma3, "qwen2_vl": qwen2_vl}


def build(name: str):
    """The model under eager attention, and the arguments of a call."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    model.set_attn_implementation("eager")
    return model.eval(), inputs
