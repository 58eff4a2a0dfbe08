"""The Longformers that are timed, with random weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lckernels.flops import attention_flops
from lckernels.visible import visible_pairs

VOCABULARY = 1024
ATTENTION, MODEL = "Longformer_attention", "Longformer"  # ops: one layer's attention alone, the whole model
FORWARD, TRAINING = "forward", "training"  # directions; training is a forward and its backward


@dataclass(frozen=True)
class LongformerCase:
    """One row through a Longformer, fp32, whose first tokens have global attention.

    Attributes:
        op: ATTENTION or MODEL.
        direction: FORWARD or TRAINING.
        layers: Number of layers; Longformer-base has 12. The attention is that of the first.
        seqlen: Tokens.
        window: attention_window: half as many keys to each side.
        global_tokens: How many tokens have global attention.
        heads: Of dim // heads.
        dim: Of the hidden states.
        intermediate: Width of the feed-forward.
    """

    op: str
    direction: str
    layers: int = 1
    seqlen: int = 4096
    window: int = 512
    global_tokens: int = 1
    heads: int = 12
    dim: int = 768
    intermediate: int = 3072

    @property
    def label(self) -> str:
        return (
            f"{self.op}-{self.direction}-n{self.seqlen}-l{self.layers}-w{self.window}-g{self.global_tokens}"
        )

    def shape(self) -> dict[str, int | str]:
        names = ("seqlen", "layers", "window", "global_tokens", "heads", "dim")
        return {name: getattr(self, name) for name in names}

    def flops(self) -> float:
        """Products with weights and of the pairs in the windows; those of global tokens are not counted."""
        weights = 3 * self.dim
        if self.op == MODEL:
            weights += self.dim + 2 * self.intermediate
        pairs = visible_pairs(self.seqlen, self.seqlen, (self.window // 2,) * 2)
        head_dim = self.dim // self.heads
        of_layer = 2 * self.seqlen * self.dim * weights + attention_flops(
            pairs, self.heads, head_dim, head_dim
        )
        return (3 if self.direction == TRAINING else 1) * self.layers * of_layer

    def build(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """The model in evaluation mode, without dropout, and its inputs."""
        import transformers

        config = transformers.LongformerConfig(
            vocab_size=VOCABULARY, hidden_size=self.dim, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, intermediate_size=self.intermediate,
            max_position_embeddings=self.seqlen + 2, attention_window=self.window, initializer_range=0.05,
        )  # fmt: skip
        torch.manual_seed(0)
        model = transformers.LongformerModel(config, add_pooling_layer=False).eval()
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, VOCABULARY, (1, self.seqlen), generator=generator)
        of_global = torch.zeros_like(ids)
        of_global[:, : self.global_tokens] = 1
        return model, {"input_ids": ids, "global_attention_mask": of_global}


LONGFORMER_QUICK = [LongformerCase(ATTENTION, direction) for direction in (FORWARD, TRAINING)]
LONGFORMER_FULL = [
    *LONGFORMER_QUICK,
    LongformerCase(ATTENTION, FORWARD, global_tokens=0),
    LongformerCase(MODEL, FORWARD, layers=2),
    LongformerCase(MODEL, TRAINING),
    LongformerCase(MODEL, FORWARD, layers=12),
]
