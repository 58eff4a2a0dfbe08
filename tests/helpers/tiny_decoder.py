"""A random Mistral with a tokenizer of bytes, also on disk, and a substitute for `patched`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

POSITIONS = 64
SIZES = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.3,
}


def byte_tokenizer(bos: bool = True) -> transformers.PreTrainedTokenizerFast:
    """A token for each byte; `<s>` before the text, `</s>` behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<s>", "</s>", "<unk>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def tiny_mistral(sliding_window: int | None = None) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, sliding_window=sliding_window)
    return transformers.MistralForCausalLM(config).eval()


def save_tiny_decoder(folder: Path, bos: bool = True) -> Path:
    """Model and tokenizer in `folder`, as AutoModelForCausalLM and AutoTokenizer load them; 64 positions."""
    tiny_mistral().save_pretrained(folder)
    byte_tokenizer(bos).save_pretrained(folder)
    return folder


@contextmanager
def eager_or_window(model, window=None, sink_tokens=None) -> Iterator[None]:
    """Replaces `lckernels.patched` for Mistral: eager attention, or the model's own window; no sinks."""
    assert sink_tokens in (None, 0)
    before = model.config._attn_implementation, getattr(model.config, "sliding_window", None)
    model.config._attn_implementation = "eager"
    model.config.sliding_window = window or before[1]
    try:
        yield
    finally:
        model.config._attn_implementation, model.config.sliding_window = before
