"""Hashes of models and tokenizers, equal on every machine and for any number of threads."""

import hashlib
from collections.abc import Set
from typing import Any

import torch


def weights_sha256(model: torch.nn.Module, left_out: Set[str] = frozenset()) -> str:
    """Hash of the config and of the bytes of the parameters and buffers in the state dict.

    Args:
        model: a transformers model.
        left_out: names in the state dict that do not count, such as those with random values.
    """
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name not in left_out:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hash of a fast tokenizer: normalisation, vocabulary, merges, special tokens around a text."""
    backend = tokenizer.backend_tokenizer
    # Truncation and padding are settings of the last call.
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    digest = hashlib.sha256(backend.to_str().encode()).hexdigest()
    if truncation is not None:
        backend.enable_truncation(**truncation)
    if padding is not None:
        backend.enable_padding(**padding)
    return digest
