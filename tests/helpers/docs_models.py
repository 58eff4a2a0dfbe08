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
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": "BertForSequenceClassification",
}
NER_LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def save_models_with_heads(folder: Path) -> None:
    """A BERT with 512 positions for each of HEADS, and a RoBERTa for questions with two separators."""
    for name, head in HEADS.items():
        path = save_tiny_bert(folder / name, positions=512)
        config = transformers.BertConfig.from_pretrained(path, num_labels=1 if "cross" in name else 2)
        if name.endswith("NER"):
            config.id2label = dict(enumerate(NER_LABELS))
        _save(head, config, path)
    path = folder / "deepset" / "roberta-base-squad2"
    _tokenizer("<s> $A </s>", "<s> $A </s> </s> $B </s>").save_pretrained(path)
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
    save_tiny_t5(folder / "google-t5" / "t5-small")
    save_tiny_bert(folder / "colbert-ir" / "colbertv2.0", positions=512)


def save_tiny_t5(folder: Path) -> None:
    """A T5 whose tokenizer has a limit of 512 bytes and adds `</s>` alone."""
    tokenizer = _tokenizer("$A </s>", "$A </s> $B </s>")
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=260, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=3,
        eos_token_id=1, decoder_start_token_id=3,
    )  # fmt: skip
    _save("T5ForConditionalGeneration", config, folder)


def _save(head: str, config: transformers.PreTrainedConfig, path: Path) -> None:
    torch.manual_seed(0)
    getattr(transformers, head)(config).save_pretrained(path)


def _tokenizer(single: str, pair: str) -> transformers.PreTrainedTokenizerFast:
    """One of bytes, with templates of a text and of two."""
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return tokenizer
