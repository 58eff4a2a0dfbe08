"""The vision towers that are timed, with random weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lckernels.flops import attention_flops

# ops: the attention of one layer without projections and rotary embedding; one layer's attention with them;
# the whole tower
ATTENTION, LAYER, MODEL = "Tower_attention", "Tower_layer", "Tower"
FORWARD, TRAINING = "forward", "training"  # directions; training is a forward and its backward
_CHANNELS, _FRAMES, _PATCH, _MERGE = 3, 2, 14, 2  # of Qwen2.5-VL; the tower merges squares of 2 x 2 patches


@dataclass(frozen=True)
class TowerCase:
    """One square image through Qwen2.5-VL's vision tower, fp32, whose layers attend within windows.

    Attributes:
        op: ATTENTION, LAYER or MODEL.
        direction: FORWARD or TRAINING.
        layers: Number of layers, none of which attends to the whole image.
        side: Patches on one side of the image.
        window: Patches on one side of a window.
        heads: Of dim // heads.
        dim: Of the hidden states.
        intermediate: Width of the feed-forward.
    """

    op: str
    direction: str
    layers: int = 1
    side: int = 64
    window: int = 8
    heads: int = 16
    dim: int = 1280
    intermediate: int = 3420

    @property
    def label(self) -> str:
        return f"{self.op}-{self.direction}-n{self.patches}-l{self.layers}-w{self.window**2}"

    @property
    def patches(self) -> int:
        """Patches of the image."""
        return self.side**2

    def shape(self) -> dict[str, int | str]:
        sizes = {"seqlen": self.patches, "layers": self.layers, "window": self.window**2}
        return sizes | {"heads": self.heads, "dim": self.dim}

    def flops(self) -> float:
        """Products with weights of the layers, and of the pairs in the windows."""
        per_patch = {ATTENTION: 0, LAYER: 4 * self.dim, MODEL: 4 * self.dim + 3 * self.intermediate}
        weights = 2 * self.patches * self.dim * per_patch[self.op]
        head_dim = self.dim // self.heads
        pairs = sum(size * size for size in self.windows())
        of_layer = weights + attention_flops(pairs, self.heads, head_dim, head_dim)
        return (3 if self.direction == TRAINING else 1) * self.layers * of_layer

    def windows(self) -> list[int]:
        """Patches of each window; those at the right and lower edges are smaller."""
        sides = [min(self.window, self.side - at) for at in range(0, self.side, self.window)]
        return [rows * columns for rows in sides for columns in sides]

    def build(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """The tower in evaluation mode, and its inputs."""
        from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl, modeling_qwen2_5_vl

        config = configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
            depth=self.layers, hidden_size=self.dim, intermediate_size=self.intermediate,
            num_heads=self.heads, in_channels=_CHANNELS, patch_size=_PATCH, spatial_merge_size=_MERGE,
            temporal_patch_size=_FRAMES, window_size=self.window * _PATCH, out_hidden_size=self.dim,
            fullatt_block_indexes=[], initializer_range=0.05,
        )  # fmt: skip
        config._attn_implementation = "sdpa"
        torch.manual_seed(0)
        tower = modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel(config).eval()
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(self.patches, _CHANNELS * _FRAMES * _PATCH**2, generator=generator)
        return tower, {"hidden_states": pixels, "grid_thw": torch.tensor([[1, self.side, self.side]])}


TOWERS_QUICK = [TowerCase(ATTENTION, direction) for direction in (FORWARD, TRAINING)]
TOWERS_FULL = [*TOWERS_QUICK, TowerCase(LAYER, FORWARD), TowerCase(MODEL, FORWARD, layers=4)]
