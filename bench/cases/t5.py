"""The T5 encoders that are timed, with random weights."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lckernels.flops import attention_flops
from lckernels.visible import visible_pairs

VOCABULARY = 1024
FULL = (-1, -1)


@dataclass(frozen=True)
class T5Case:
    """One row through the encoder of a T5, fp32.

    Attributes:
        seqlen: Tokens.
        layers: Number of layers; T5-base has 12.
        window: W of `lckernels.patch`: W // 2 keys to each side.
        full: Whether full attention on lckernels is timed too.
        heads: Of `head_dim`; T5-base has 12.
        head_dim: Of a head.
        dim: Of the hidden states.
        intermediate: Width of the feed-forward.
    """

    seqlen: int
    layers: int
    window: int = 512
    full: bool = True
    heads: int = 12
    head_dim: int = 64
    dim: int = 768
    intermediate: int = 3072

    @property
    def label(self) -> str:
        return f"n{self.seqlen}-l{self.layers}-h{self.heads}-w{self.window}"

    @property
    def sides(self) -> tuple[int, int]:
        """The window's keys before and after a query."""
        return self.window // 2, self.window // 2

    def shape(self, window: tuple[int, int]) -> dict[str, int | str]:
        sizes = {name: getattr(self, name) for name in ("seqlen", "layers", "heads", "head_dim", "dim")}
        return sizes | {"window": "{},{}".format(*window)}

    def flops(self, window: tuple[int, int]) -> float:
        """Products with weights and of the visible pairs."""
        dense = 2 * self.seqlen * self.dim * (4 * self.heads * self.head_dim + 2 * self.intermediate)
        pairs = visible_pairs(self.seqlen, self.seqlen, window)
        return self.layers * (dense + attention_flops(pairs, self.heads, self.head_dim, self.head_dim))

    def build(self) -> tuple[nn.Module, Tensor]:
        """The encoder in evaluation mode, and input ids (1, seqlen)."""
        import transformers

        config = transformers.T5Config(
            vocab_size=VOCABULARY, d_model=self.dim, d_kv=self.head_dim, d_ff=self.intermediate,
            num_layers=self.layers, num_heads=self.heads, dropout_rate=0.0, is_encoder_decoder=False,
        )  # fmt: skip
        torch.manual_seed(0)
        model = transformers.T5EncoderModel(config).eval()
        for bias in _tables(
            model
        ):  # its default is so small that a wrong bias would hardly change the result
            nn.init.normal_(bias, std=1.0)
        generator = torch.Generator().manual_seed(0)
        return model, torch.randint(1, VOCABULARY, (1, self.seqlen), generator=generator)


def _tables(model: nn.Module) -> list[Any]:
    return [weight for name, weight in model.named_parameters() if "relative_attention_bias" in name]


K = 1024
T5_QUICK = [T5Case(2 * K, 2)]
# The default holds two tensors of queries by keys: at 16,384 tokens 24 GiB for 12 heads, 16 GiB for 8.
T5_FULL = [*T5_QUICK, T5Case(8 * K, 12), T5Case(16 * K, 2, full=False, heads=8)]
