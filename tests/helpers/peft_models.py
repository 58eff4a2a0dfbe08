"""Tiny models in PEFT's prompt learning, and the same windows as explicit masks of an unpatched model."""

from collections.abc import Iterator
from contextlib import contextmanager

import peft
import torch
import transformers
from torch import Tensor, nn

VIRTUAL = 4
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
DECODERS = {
    "llama": ("Llama", {"num_key_value_heads": 2, "head_dim": 8}),
    "opt": ("OPT", {"word_embed_proj_dim": 32, "ffn_dim": 48}),
}
ENCODERS = {"bert": ("Bert", {}), "roberta": ("Roberta", {}), "electra": ("Electra", {"embedding_size": 32})}
_CPT = {"cpt_token_ids": [5, 6, 7, 8], "cpt_mask": [1] * VIRTUAL, "cpt_tokens_type_mask": [1, 2, 3, 4]}
# By method: class and options of its config.
PROMPTS = {
    "prompt tuning": ("PromptTuningConfig", {}),
    "p-tuning": ("PromptEncoderConfig", {"encoder_hidden_size": 16}),
    "multitask": ("MultitaskPromptTuningConfig", {"num_tasks": 2}),
    "cpt": ("CPTConfig", _CPT),
    "prefix tuning": ("PrefixTuningConfig", {}),
    "prefix projection": ("PrefixTuningConfig", {"prefix_projection": True, "encoder_hidden_size": 16}),
    "cartridge": ("CartridgeConfig", {"num_frozen_tokens": 0}),
}


def decoder(name: str = "llama", layers: int = 2, **sizes: int) -> nn.Module:
    """A causal language model under eager attention."""
    family, own = DECODERS[name]
    return _build(f"{family}ForCausalLM", f"{family}Config", {**own, "num_hidden_layers": layers, **sizes})


def encoder(name: str = "bert", layers: int = 2) -> nn.Module:
    """An encoder under eager attention."""
    family, own = ENCODERS[name]
    return _build(f"{family}Model", f"{family}Config", {**own, "num_hidden_layers": layers})


def _build(model: str, config: str, options: dict[str, int]) -> nn.Module:
    torch.manual_seed(0)
    made = getattr(transformers, config)(**{**SIZES, "initializer_range": 0.2, **options})
    made._attn_implementation = "eager"
    return getattr(transformers, model)(made).eval()


def prompted(model: nn.Module, method: str, virtual: int = VIRTUAL) -> nn.Module:
    """The model in PEFT with this method of prompt learning, whose virtual tokens matter."""
    name, options = PROMPTS[method]
    task = "CAUSAL_LM" if hasattr(model, "lm_head") else "FEATURE_EXTRACTION"
    options = dict(options) if name == "CPTConfig" else {**options, "num_virtual_tokens": virtual}
    torch.manual_seed(1)
    tuned = peft.get_peft_model(model, getattr(peft, name)(task_type=task, **options)).eval()
    if name != "CPTConfig":  # its embeddings are those of its tokens
        for parameter in tuned.prompt_encoder.parameters():
            nn.init.normal_(parameter)
    return tuned


def extra(method: str, rows: int) -> dict[str, Tensor]:
    """Further inputs that the method requires."""
    return {"task_ids": torch.zeros(rows, dtype=torch.long)} if method == "multitask" else {}


def visible(valid: Tensor, window: int, sinks: int, causal: bool) -> Tensor:
    """(batch, n, n): which valid keys each slot sees, where window and sinks count the row's own keys."""
    rank = valid.cumsum(1) - 1
    p, j = rank[:, :, None], rank[:, None, :]
    left, right = (window - 1, 0) if causal else (window // 2,) * 2
    return valid[:, None] & (j <= p + right) & ((j >= p - left) | (j < sinks))


@contextmanager
def masked(model: nn.Module, window: int, sinks: int, virtual: int = VIRTUAL) -> Iterator[None]:
    """The unpatched PEFT model with the window and sink tokens of a patch as an explicit mask."""
    base = model.get_base_model()
    causal = hasattr(base, "lm_head")

    def replace(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        inputs = kwargs.get("inputs_embeds")
        inputs = kwargs["input_ids"] if inputs is None else inputs
        rows, seqlen_q = inputs.shape[:2]
        cached = any(kwargs.get(name) is not None for name in ("cache", "past_key_values"))
        seqlen_k = seqlen_q + virtual * cached
        valid = kwargs.get("attention_mask")
        valid = torch.ones(rows, seqlen_k) if valid is None else valid
        seen = visible(valid.bool(), window, sinks, causal)[:, None, seqlen_k - seqlen_q :]
        mask = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": mask}

    # Some methods of PEFT call the forward of the model itself, past its hooks.
    handle = base.base_model.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
