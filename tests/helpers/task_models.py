"""Tiny BERTs with the head of a task, with random weights, in folders."""

from pathlib import Path

import torch
import transformers
from helpers.tiny_bert import save_tiny_bert

LABELS = {
    "BertForQuestionAnswering": ("start", "end"),
    "BertForTokenClassification": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "BertForSequenceClassification": ("sport", "news", "music"),
}


def save_tiny_head(
    folder: Path, head: str, labels: tuple[str, ...] | None = None, positions: int = 32, dim: int = 16
) -> str:
    """Model and tokenizer; labels are those of LABELS by default."""
    config = transformers.BertConfig.from_pretrained(save_tiny_bert(folder, dim, positions))
    config.id2label = dict(enumerate(labels or LABELS[head]))
    config.label2id = {label: i for i, label in config.id2label.items()}
    torch.manual_seed(0)
    getattr(transformers, head)(config).save_pretrained(folder)
    return str(folder)


def save_slow_tokenizer(folder: Path) -> None:
    """A tokenizer without offsets in place of that in the folder; the ids are others."""
    for path in folder.glob("*tok*"):
        path.unlink()
    transformers.EsmTokenizer(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
