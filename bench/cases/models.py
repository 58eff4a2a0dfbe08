"""The whole models that are timed: shapes, the window of each layer, FLOPs."""

from dataclasses import dataclass
from typing import Any

import torch

from bench.harness.rows import dtype_name
from lckernels.visible import visible_pairs

K = 1024
_VOCABULARY = 1024  # of random models; the time of an embedding does not depend on it
# Larger than transformers' default, so that attention is not nearly uniform and a wrong key is detected.
_RANDOM = {"vocab_size": _VOCABULARY, "initializer_range": 0.05, "pad_token_id": 0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": (
        "MistralConfig",  # the shape of SmolLM2-135M
        {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "sliding_window": K,
            "use_cache": False,
        },
    ),
    "modernbert": ("ModernBertConfig", {}),  # the defaults are ModernBERT-base
    "gpt_oss": (
        "GptOssConfig",
        {
            "hidden_size": 512,
            "intermediate_size": 512,
            "num_attention_heads": 8,
            "num_key_value_heads": 1,
            "head_dim": 64,
            "sliding_window": 128,
            # Every token uses every expert, so that rounding does not change the choice.
            "num_local_experts": 4,
            "num_experts_per_tok": 4,
            "use_cache": False,
        },
    ),
}


@dataclass(frozen=True)
class ModelCase:
    """Inference: a forward of one sequence through the layers of a model, without its head.

    Attributes:
        family: A key of FAMILIES.
        seqlen: Tokens.
        dtype: Of the weights.
        layers: Number of layers.
        real: Whether the weights are those of SmolLM2-135M, all 30 layers; else they are random.
    """

    family: str
    seqlen: int
    dtype: torch.dtype
    layers: int
    real: bool = False

    @property
    def label(self) -> str:
        weights = "-smollm2" if self.real else ""
        return f"{self.family}{weights}-l{self.layers}-n{self.seqlen}-{dtype_name(self.dtype)}"

    def config(self) -> Any:
        """The config of a model with random weights."""
        import transformers

        name, sizes = FAMILIES[self.family]
        positions = {"max_position_embeddings": max(self.seqlen, 8 * K)}
        depth = {"num_hidden_layers": self.layers}
        return getattr(transformers, name)(**_RANDOM, **sizes, **positions, **depth)


def layer_windows(config: Any) -> list[tuple[int, int]]:
    """(left, right) of each layer, -1 unbounded."""
    causal = config.model_type != "modernbert"
    local = (config.sliding_window - 1, 0) if causal else (config.sliding_window, config.sliding_window)
    full = (-1, 0) if causal else (-1, -1)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [local if kind == "sliding_attention" else full for kind in kinds]


def head_sizes(config: Any) -> tuple[int, int, int]:
    """Heads, key heads, head_dim."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return heads, getattr(config, "num_key_value_heads", heads), head_dim


def flops(model: torch.nn.Module, seqlen: int) -> float:
    """FLOPs of the matrix products with weights and of the visible pairs of each layer."""
    heads, _, head_dim = head_sizes(model.config)
    embedding = model.get_input_embeddings().weight
    weights = sum(p.numel() for p in model.parameters() if p.dim() > 1 and p is not embedding)
    pairs = sum(visible_pairs(seqlen, seqlen, window) for window in layer_windows(model.config))
    return 2.0 * weights * seqlen + 4.0 * heads * head_dim * pairs


_DTYPES = (torch.float32, torch.bfloat16)
MODELS_QUICK = [
    ModelCase(family, n * K, dtype, layers)
    for dtype in _DTYPES
    for family, layers, lengths in (
        ("mistral", 2, (1, 4, 16)),
        ("modernbert", 3, (1, 8)),
        ("gpt_oss", 2, (1, 8)),
    )
    for n in lengths
]
MODELS_FULL = MODELS_QUICK + [
    ModelCase(family, n * K, dtype, layers, real=family == "mistral")
    for dtype in _DTYPES
    for family, layers, lengths in (
        ("mistral", 30, (1, 2, 4, 8, 16, 32)),
        ("modernbert", 22, (1, 2, 4, 8, 16, 32)),
        ("gpt_oss", 4, (1, 2, 4, 8, 16, 32)),
    )
    for n in lengths
]
