"""Tiny models with task heads, saved under the hub names that the pages of the documentation load."""

from pathlib import Path

import torch
import transformers
from helpers.tiny_bert import save_tiny_bert
from helpers.tiny_decoder import byte_tokenizer

HEADS = {
    "dslim/bert-base-NER": "BertForTokenClassification",
    "cross-encoder/ms-marco-MiniLM-L6-v2": "BertForSequenceClassification",
    "google-bert/bert-base-uncased": "BertForPreTraining",
}


def save_models_with_heads(folder: Path) -> None:
    """A BERT with 512 positions for each of HEADS, and a RoBERTa for questions with two separators."""
    for name, head in HEADS.items():
        path = save_tiny_bert(folder / name, positions=512)
        config = transformers.BertConfig.from_pretrained(path, num_labels=1 if "cross" in name else 2)
        _save(head, config, path)
    path = folder / "deepset" / "roberta-base-squad2"
    _pair_tokenizer().save_pretrained(path)
    config = transformers.RobertaConfig(
        vocab_size=260,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=130,
        pad_token_id=3,
        bos_token_id=0,
        eos_token_id=1,
    )
    _save("RobertaForQuestionAnswering", config, path)


def _save(head: str, config: transformers.PreTrainedConfig, path: Path) -> None:
    torch.manual_seed(0)
    getattr(transformers, head)(config).save_pretrained(path)


def _pair_tokenizer() -> transformers.PreTrainedTokenizerFast:
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 1)],
    )
    return tokenizer
