"""Tiny language models with their heads, in float64, and their loss token by token."""

import torch
import transformers
from torch import Tensor, nn

VOCAB, PAD, CLS, SEP, WINDOW = 48, 0, 3, 4, 6
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": PAD, "initializer_range": 0.2,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NO_DROPOUT_GPT2 = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2}
CAUSAL = {
    "llama": ("Llama", GROUPED),
    "tied": ("Llama", {**GROUPED, "tie_word_embeddings": True}),
    "gpt2": (
        "GPT2",
        {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, **NO_DROPOUT_GPT2},
    ),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": WINDOW}),
    "gemma2": ("Gemma2", {**GROUPED, "sliding_window": WINDOW, "final_logit_softcapping": 3.0}),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.3}),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 7.0, "embedding_multiplier": 3.0}),
}  # fmt: skip
MASKED = {
    "bert": ("Bert", {**SIZES, **NO_DROPOUT}),
    "roberta": ("Roberta", {**SIZES, **NO_DROPOUT, "pad_token_id": 1}),
    "modernbert": (
        "ModernBert",
        {**SIZES, "local_attention": 4, "num_hidden_layers": 3, "cls_token_id": CLS, "sep_token_id": SEP},
    ),
}


def causal(name: str, **sizes: object) -> nn.Module:
    """A causal language model in float64."""
    return _model(*CAUSAL[name], "LMHeadModel" if name == "gpt2" else "ForCausalLM", sizes)


def masked(name: str, **sizes: object) -> nn.Module:
    """A masked language model in float64."""
    return _model(*MASKED[name], "ForMaskedLM", sizes)


def token_ids(length: int, seed: int = 0) -> Tensor:
    """(length,) ids that are no special tokens."""
    return torch.randint(5, VOCAB, (length,), generator=torch.Generator().manual_seed(100 * seed + length))


def batch(lengths: list[int], left: bool = False) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels of documents of these lengths, padded to one length."""
    size = max(lengths)
    ids = torch.full((len(lengths), size), PAD)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        columns = slice(size - length, size) if left else slice(0, length)
        ids[row, columns] = labels[row, columns] = token_ids(length, row)
        mask[row, columns] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """The gradients of the model's parameters by name; zeros where there is none."""
    names, weights = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return {n: torch.zeros_like(w) if g is None else g for n, w, g in zip(names, weights, found, strict=True)}


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of gradients, relative to the largest gradient of the same parameter."""
    assert found.keys() == expected.keys() and any(x.any() for x in expected.values())
    return max(
        float((found[name] - x).abs().max() / x.abs().max().clamp(min=1e-9)) for name, x in expected.items()
    )


def _model(prefix: str, sizes: dict[str, object], head: str, further: dict[str, object]) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**{**sizes, **further})
    return getattr(transformers, f"{prefix}{head}")(config).double().train()
