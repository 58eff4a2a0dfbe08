"""Tiny ModernBERTs that are trained on chunks of generated documents: parts of 62 tokens at most."""

from collections.abc import Callable

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from bench.task_scores import texts
from bench.task_scores.texts import CLS, PAD, SEP, TITLES, WORDS, Document, Generate

CHUNK = 64
_ID = {word: i for i, word in enumerate(WORDS)}
TAGS = ("O", *(f"{letter}-{title}" for title in TITLES for letter in "BI"))
_IGNORED = -100
_RATE, _BATCH, _LENGTH = 3e-3, 64, 120  # the largest learning rate, documents of a step, words of each
MakeRow = Callable[[np.random.Generator, Document], dict[str, list[int] | int]]


def _config(labels: tuple[str, ...]) -> transformers.ModernBertConfig:
    return transformers.ModernBertConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4,
        global_attn_every_n_layers=1, max_position_embeddings=CHUNK, initializer_range=0.1,
        pad_token_id=PAD, cls_token_id=CLS, sep_token_id=SEP, bos_token_id=CLS, eos_token_id=SEP,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip


def _part(rng: np.random.Generator, document: Document, size: int) -> int:
    """The first word of a part of `size` words; half of them are near evidence."""
    last = max(0, len(document.words) - size)
    if rng.random() < 0.5:
        part = document.parts[rng.integers(len(document.parts))]
        near = int(rng.integers(part.start - size + 1, part.end))
        return min(max(near, 0), last)
    return int(rng.integers(last + 1))


def _row(words: list[str], question: str = "") -> list[int]:
    first = [_ID[question], SEP] if question else []
    return [CLS, *first, *(_ID[word] for word in words), SEP]


def _answer_row(rng: np.random.Generator, document: Document) -> dict[str, list[int] | int]:
    """Start and end are learned where each is in the part; else they are [CLS]."""
    size = CHUNK - 4
    first = _part(rng, document, size)
    row = _row(document.words[first : first + size], document.question)
    (answer,) = document.parts
    ends = (answer.start - first + 3, answer.end - 1 - first + 3)
    start, end = (place if 3 <= place < len(row) - 1 else 0 for place in ends)
    return {"input_ids": row, "start_positions": start, "end_positions": end}


def _tag_row(rng: np.random.Generator, document: Document) -> dict[str, list[int] | int]:
    size = CHUNK - 2
    first = _part(rng, document, size)
    labels = [0] * len(document.words)
    for part in document.parts:
        inside = TAGS.index(f"I-{part.label}")
        labels[part.start : part.end] = [inside - 1] + [inside] * (part.end - part.start - 1)
    row = _row(document.words[first : first + size])
    return {"input_ids": row, "labels": [_IGNORED, *labels[first : first + size], _IGNORED]}


def _batch(rows: list[dict[str, list[int] | int]]) -> dict[str, Tensor]:
    batch = {}
    for name in rows[0]:
        values = [torch.tensor(row[name]) for row in rows]
        padding = _IGNORED if name == "labels" else PAD
        batch[name] = (
            torch.nn.utils.rnn.pad_sequence(values, True, padding) if values[0].dim() else torch.stack(values)
        )
    batch["attention_mask"] = (batch["input_ids"] != PAD).long()
    return batch


def _train(model: nn.Module, generate: Generate, make_row: MakeRow, steps: int, seed: int) -> nn.Module:
    """The model, trained on parts of documents that are generated as they are read."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.05)
    model.train()
    for _ in range(steps):
        rows = [make_row(rng, generate(rng, _LENGTH)) for _ in range(_BATCH)]
        loss = model(**_batch(rows)).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def reader(steps: int, seed: int) -> nn.Module:
    """A model for question answering."""
    torch.manual_seed(seed)
    model = transformers.ModernBertForQuestionAnswering(_config(("start", "end")))
    return _train(model, texts.answers, _answer_row, steps, seed)


def tagger(steps: int, seed: int) -> nn.Module:
    """A model for token classification."""
    torch.manual_seed(seed)
    model = transformers.ModernBertForTokenClassification(_config(TAGS))
    return _train(model, texts.tags, _tag_row, steps, seed)
