"""Tiny vision and audio towers that loop over images or windows, and inputs of several sizes."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from helpers.hf_cross import random
from torch import Tensor, nn

# Of any tower, where its config has a field of this name.
SIZES = {
    "depth": 2, "num_hidden_layers": 2, "encoder_layers": 2, "hidden_size": 32, "embed_dim": 32,
    "d_model": 32, "num_heads": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "encoder_attention_heads": 4, "head_dim": 8, "intermediate_size": 48, "encoder_ffn_dim": 48,
    "patch_size": 4, "out_hidden_size": 32, "text_hidden_size": 32, "output_dim": 32,
    "downsample_hidden_size": 16, "num_position_embeddings": 16, "image_size": 16, "posemb_grid_size": 4,
    "pos_emb_height": 4, "pos_emb_width": 4, "max_image_size": 16, "window_size": 16,
    "fullatt_block_indexes": [1], "deepstack_visual_indexes": [0], "layer_types": None,
    "projection_hidden_dim": 48, "projection_intermediate_size": 48, "num_mel_bins": 16,
    "n_window_infer": 200, "max_position_embeddings": 16, "insert_layer_id": 0,
}  # fmt: skip
# (frames, height, width) of each image or video in patches: several sizes, one patch row more than windows
# have, and one image alone.
IMAGES = ((1, 4, 4), (1, 4, 8), (1, 6, 10))
VIDEOS = ((1, 4, 4), (2, 4, 8), (1, 6, 10))
ONE = ((1, 4, 4),)
Grids = tuple[tuple[int, int, int], ...]


def _rows(pixels: Tensor, width: int) -> Tensor:
    return pixels


def _images_of_patches(pixels: Tensor, width: int) -> Tensor:
    return pixels.unflatten(1, (3, width, width))


def _strip(pixels: Tensor, width: int) -> Tensor:
    """One image of all patches side by side."""
    return pixels.unflatten(1, (3, width, width)).permute(1, 2, 0, 3).flatten(2)[None]


def _pixels(tower: nn.Module, grids: Grids, layout: Callable) -> Tensor:
    layers = nn.Linear | nn.Conv2d | nn.Conv3d
    embedding = next(m for name, m in tower.named_modules() if "embed" in name and isinstance(m, layers))
    patches = sum(t * h * w for t, h, w in grids)
    return layout(random(patches, embedding.weight[0].numel()), embedding.weight.shape[-1])


def grids_as(grid: str = "grid_thw", pixels: str = "pixel_values", layout: Callable = _rows, **more: Any):
    """Inputs of a tower: patches in rows, or by `layout`, and the sizes of the images."""

    def inputs(tower: nn.Module, grids: Grids) -> dict[str, Any]:
        sizes = torch.tensor(grids)
        sizes = sizes if grid.endswith("thw") else sizes[:, 1:]
        given = {key: value(grids) for key, value in more.items()}
        return {pixels: _pixels(tower, grids, layout), grid: sizes, **given}

    return inputs


def pixtral_inputs(tower: nn.Module, grids: Grids) -> dict[str, Any]:
    """Images of one batch, each in the upper left corner of a square, with their sizes in pixels."""
    sizes = torch.tensor([(4 * h, 4 * w) for _, h, w in grids])
    return {"pixel_values": random(len(grids), 3, 40, 40), "image_sizes": sizes}


def inkling_inputs(tower: nn.Module, grids: Grids) -> dict[str, Any]:
    """Blocks of 2 * 2 patches, with their sizes in blocks."""
    sizes = torch.tensor([(t, h // 2, w // 2) for t, h, w in grids])
    return {"pixel_values": random(int(sizes.prod(1).sum()), 8, 8, 3), "image_grid_thw": sizes}


def _frames(grids: Grids) -> list[int]:
    """Lengths of spectrograms: none a multiple of a window, one shorter than it."""
    return [4 * t * h * w + 5 for t, h, w in grids]


def audio_inputs(tower: nn.Module, grids: Grids) -> dict[str, Any]:
    """Spectrograms one after the other."""
    lengths = _frames(grids)
    return {"input_features": random(16, sum(lengths)), "feature_lens": torch.tensor(lengths)}


def padded_audio_inputs(tower: nn.Module, grids: Grids) -> dict[str, Any]:
    """Padded spectrograms in rows, whose length is a multiple of a window's."""
    lengths = torch.tensor(_frames(grids))
    longest = -(-int(lengths.max()) // 100) * 100
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_features": random(len(grids), 16, longest), "input_features_mask": mask}


_PATCHES = grids_as(pixels="hidden_states")
_PIXELS = grids_as()
_FRAMES = grids_as(grid="target_sizes", layout=_strip)


@dataclass(frozen=True)
class Tower:
    """A tower of transformers.

    Attributes:
        folder: of transformers.models.
        name: of its class.
        inputs: (tower, grids) -> the arguments of a forward.
        sizes: of its config beside SIZES.
        grids: images or videos of several sizes.
    """

    folder: str
    name: str
    inputs: Callable[[nn.Module, Grids], dict[str, Any]] = _PATCHES
    sizes: dict[str, Any] = field(default_factory=dict)
    grids: Grids = VIDEOS

    @property
    def cls(self) -> type | None:
        """The class; None where this version of transformers has none."""
        try:
            module = importlib.import_module(f"transformers.models.{self.folder}.modeling_{self.folder}")
        except ImportError:
            return None
        return getattr(module, self.name, None)


_BLOCKS = {"num_attention_heads": 4, "num_key_value_heads": 2}
TOWERS = {
    "cohere_compass": Tower("cohere_compass", "CohereCompassVisionModel"),
    "cosmos3_edge": Tower("cosmos3_edge", "Cosmos3EdgeVisionModel", _PIXELS),
    "dots3_note": Tower(
        "dots3_note", "Dots3NoteVisionModel", _PIXELS,
        {"mlp_layer_types": ["dense"] * 2, "adapter_in_dim": 32, "adapter_out_dim": 32},
    ),
    "ernie4_5_vl_moe": Tower("ernie4_5_vl_moe", "Ernie4_5_VLMoeVisionTransformerPretrainedModel"),
    "exaone4_5": Tower("exaone4_5", "Exaone4_5_VisionModel", sizes=_BLOCKS),
    "glm4v": Tower("glm4v", "Glm4vVisionModel", grids=IMAGES),
    "glm4v_moe": Tower("glm4v_moe", "Glm4vMoeVisionModel", grids=IMAGES),
    "glm5_next": Tower("glm5_next", "Glm5NextVisionModel"),
    "glm_image": Tower("glm_image", "GlmImageVisionModel", _PIXELS, grids=IMAGES),
    "glm_ocr": Tower("glm_ocr", "GlmOcrVisionModel"),
    "hunyuan_vl": Tower("hunyuan_vl", "HunYuanVLVisionTransformer", _PIXELS, grids=IMAGES),
    "hy_v4_vl": Tower("hy_v4_vl", "HYV4VLVisionModel", _PIXELS),
    "inkling2": Tower("inkling2", "Inkling2VisionModel", inkling_inputs),
    "kimi_k25": Tower("kimi_k25", "Kimi_K25VisionModel", grids_as(layout=_images_of_patches)),
    "lfm3_vl": Tower("lfm3_vl", "Lfm3VlVisionModel", _PIXELS, {"layer_types": ["conv", "full_attention"]}),
    "minicpm_ocr": Tower("minicpm_ocr", "MiniCPMOcrVisionModel", _FRAMES, grids=IMAGES),
    "minicpmv4_6": Tower("minicpmv4_6", "MiniCPMV4_6VisionModel", _FRAMES, grids=IMAGES),
    "minicpmv4_7": Tower("minicpmv4_7", "MiniCPMV4_7VisionModel", _FRAMES, grids=IMAGES),
    "minimax_m3_vl": Tower("minimax_m3_vl", "MiniMaxM3VLVisionModel", _PIXELS),
    "muse_glimmer": Tower("muse_glimmer", "MuseGlimmerVisionModel", _PIXELS),
    "muse_spark": Tower("muse_spark", "MuseSparkVisionModel", _PIXELS),
    "paddleocr_vl": Tower(
        "paddleocr_vl", "PaddleOCRVisionModel", grids_as(layout=lambda *x: _images_of_patches(*x)[None])
    ),
    "pixtral": Tower("pixtral", "PixtralVisionModel", pixtral_inputs, grids=IMAGES),
    "qwen2_5_omni, audio": Tower("qwen2_5_omni", "Qwen2_5OmniAudioEncoder", audio_inputs),
    "qwen2_5_omni": Tower("qwen2_5_omni", "Qwen2_5OmniVisionEncoder"),
    "qwen2_5_vl": Tower("qwen2_5_vl", "Qwen2_5_VisionTransformerPretrainedModel"),
    "qwen2_vl": Tower("qwen2_vl", "Qwen2VisionTransformerPretrainedModel"),
    "qwen3_5": Tower("qwen3_5", "Qwen3_5VisionModel"),
    "qwen3_5_moe": Tower("qwen3_5_moe", "Qwen3_5MoeVisionModel"),
    "qwen3_asr": Tower("qwen3_asr", "Qwen3ASREncoder", padded_audio_inputs),
    "qwen3_omni_moe, audio": Tower("qwen3_omni_moe", "Qwen3OmniMoeAudioEncoder", audio_inputs),
    "qwen3_omni_moe": Tower("qwen3_omni_moe", "Qwen3OmniMoeVisionEncoder"),
    "qwen3_vl": Tower("qwen3_vl", "Qwen3VLVisionModel"),
    "qwen3_vl_moe": Tower("qwen3_vl_moe", "Qwen3VLMoeVisionModel"),
    "qwen4_exp": Tower("qwen4_exp", "Qwen4ExpVisionModel"),
    "radio": Tower("radio", "RadioModel", grids_as(grid="image_grid_hw"), grids=IMAGES),
    "video_llama_3": Tower(
        "video_llama_3", "VideoLlama3VisionModel", grids_as(merge_sizes=lambda x: torch.tensor([2] * len(x)))
    ),
}  # fmt: skip


def build_tower(name: str, implementation: str = "sdpa") -> nn.Module:
    """A tower with random weights, large enough that attention depends on them."""
    tower = TOWERS[name]
    config_class = tower.cls.config_class
    known = dir(config_class())
    config = config_class(**{**{key: size for key, size in SIZES.items() if key in known}, **tower.sizes})
    config._attn_implementation = implementation
    torch.manual_seed(0)
    model = tower.cls(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model


def result(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """The last hidden state; of several images in a list, one after the other."""
    output = model(**inputs)[0]
    return torch.cat(list(output)) if isinstance(output, list | tuple) else output
