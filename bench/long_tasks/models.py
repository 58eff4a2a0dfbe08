"""The models of the tasks: two layers of 64 dimensions of transformers' own classes, with random weights."""

from collections.abc import Callable

import torch
import transformers
from torch import nn

from bench.long_tasks.data.documents import CLS, PAD, SEP, VOCAB_SIZE

DIM, LAYERS, HEADS = 64, 2, 4
_IDS = {"pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP}


def seeded(build: Callable[..., nn.Module], num_labels: int, seed: int) -> nn.Module:
    """The model that `build` makes with this seed; torch's generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(num_labels)


def classifier(num_labels: int) -> nn.Module:
    """ModernBERT, whose class is read from the state of [CLS] by a head with one hidden layer."""
    return transformers.ModernBertForSequenceClassification(_modernbert(num_labels))


def tagger(num_labels: int) -> nn.Module:
    """ModernBERT, with a class per token."""
    return transformers.ModernBertForTokenClassification(_modernbert(num_labels))


def reader(num_labels: int) -> nn.Module:
    """ModernBERT, with a start and an end score per token; `num_labels` is not used."""
    return transformers.ModernBertForQuestionAnswering(_modernbert(2))


def decoder(num_labels: int) -> nn.Module:
    """A causal Llama; `num_labels` is not used, its classes are words."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=DIM, intermediate_size=2 * DIM, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=8192, initializer_range=0.1, **_IDS,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def summarizer(num_labels: int) -> nn.Module:
    """T5, encoder and decoder; `num_labels` is not used."""
    config = transformers.T5Config(
        vocab_size=VOCAB_SIZE, d_model=DIM, d_kv=DIM // HEADS, d_ff=2 * DIM, num_layers=LAYERS,
        num_heads=HEADS, dropout_rate=0.0, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=SEP,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def _modernbert(num_labels: int) -> transformers.ModernBertConfig:
    return transformers.ModernBertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=DIM, intermediate_size=2 * DIM, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, global_attn_every_n_layers=1, num_labels=num_labels,
        max_position_embeddings=8192, cls_token_id=CLS, sep_token_id=SEP, initializer_range=0.1,
        reference_compile=False, **_IDS,
    )  # fmt: skip
