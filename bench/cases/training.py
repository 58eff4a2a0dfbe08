"""Training that is timed: one step of SmolLM2 with a window, and the loss of its head."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.cases import book, smollm2
from bench.harness.rows import dtype_name
from lckernels.flops import attention_backward_flops, attention_flops
from lckernels.options import Layout
from lckernels.visible import visible_pairs

K = 1024


@dataclass(frozen=True)
class StepCase:
    """Forward and backward of the first layers of SmolLM2-135M with its head, fp32 weights, no optimizer.

    Each layer is a gradient checkpoint, so it runs twice.

    Attributes:
        seqlen: tokens of the book.
        layers: number of layers; the model has 30.
        autocast: whether it runs under bf16 autocast.
        window: keys that a token sees, itself included.
        sinks: first tokens, which all see.
    """

    seqlen: int
    layers: int
    autocast: bool
    window: int = K
    sinks: int = 4

    @property
    def dtype(self) -> torch.dtype:
        """Of the products."""
        return torch.bfloat16 if self.autocast else torch.float32

    @property
    def label(self) -> str:
        return f"n{self.seqlen}-l{self.layers}-w{self.window}-{dtype_name(self.dtype)}"

    def shape(self) -> dict[str, int | str]:
        sizes = {"seqlen": self.seqlen, "layers": self.layers, "window": self.window, "sinks": self.sinks}
        return sizes | {"weights": "float32"}

    def build(self) -> tuple[Any, Tensor]:
        """The model with full attention, and token ids (1, seqlen).

        Raises:
            ModuleNotFoundError: SmolLM2 is not installed.
        """
        model, tokenizer = smollm2.load(None)
        model.model.layers = model.model.layers[: self.layers]
        model.config.num_hidden_layers = self.layers
        return model, book.token_ids(tokenizer, self.seqlen)[None]

    def mask(self) -> Tensor:
        """(1, 1, seqlen, seqlen) bool: the keys that each token sees."""
        i, j = torch.arange(self.seqlen)[:, None], torch.arange(self.seqlen)
        return ((j <= i) & ((i - j < self.window) | (j < self.sinks)))[None, None]

    def flops(self, model: nn.Module) -> float:
        """Products of two forwards and a backward of the layers, of one of each of the head."""
        config = model.config
        weights = sum(x.numel() for x in model.model.layers.parameters() if x.dim() == 2)
        head = model.lm_head.weight.numel()
        layout = Layout(sink_tokens=self.sinks)
        pairs = visible_pairs(self.seqlen, self.seqlen, (self.window - 1, 0), layout)
        sizes = (config.num_attention_heads, config.head_dim, config.head_dim)
        attention = 2 * attention_flops(pairs, *sizes) + attention_backward_flops(pairs, *sizes)
        return 2 * self.seqlen * (4 * weights + 3 * head) + self.layers * attention


@dataclass(frozen=True)
class HeadCase:
    """Summed cross entropy of a linear head, and its gradients.

    Attributes:
        tokens: number of states.
        vocab: number of classes.
        dim: of a state.
        dtype: of states and weights.
    """

    tokens: int
    vocab: int
    dim: int
    dtype: torch.dtype

    @property
    def label(self) -> str:
        return f"n{self.tokens}-v{self.vocab}-{dtype_name(self.dtype)}"

    def shape(self) -> dict[str, int | str]:
        return {"seqlen": self.tokens, "vocab": self.vocab, "dim": self.dim}

    def build(self) -> tuple[Tensor, Tensor, Tensor]:
        """States (tokens, dim) and weight (vocab, dim), both with gradients, and labels (tokens,)."""
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(self.tokens, self.dim, generator=generator)
        weight = torch.randn(self.vocab, self.dim, generator=generator) / self.dim**0.5
        labels = torch.randint(0, self.vocab, (self.tokens,), generator=generator)
        return (*(x.to(self.dtype).requires_grad_() for x in (states, weight)), labels)

    def flops(self) -> float:
        """Products of the forward and the backward."""
        return 6 * self.tokens * self.vocab * self.dim


DTYPES = (torch.float32, torch.bfloat16)
STEPS_QUICK = [StepCase(2 * K, 2, autocast) for autocast in (False, True)]
STEPS_FULL = [*STEPS_QUICK, *(StepCase(8 * K, 30, autocast) for autocast in (False, True))]
HEADS_QUICK = [HeadCase(K, 49_152, 576, dtype) for dtype in DTYPES]
HEADS_FULL = [*HEADS_QUICK, *(HeadCase(8 * K, 49_152, 576, dtype) for dtype in DTYPES)]
