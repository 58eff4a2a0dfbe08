"""Tiny BERT models that a test trains in seconds, and the chunks that a reader of chunks would see."""

from collections.abc import Callable

import torch
import transformers
from helpers.merged_by_hand import chunk_starts
from torch import Tensor, nn

CLS, SEP = 1, 2
CHUNK = 32  # tokens of a chunk
SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
    "num_attention_heads": 4, "max_position_embeddings": CHUNK, "pad_token_id": 0,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2,
}  # fmt: skip


class Draw:
    """Random integers, the same in each run."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, low: int, high: int, *size: int) -> Tensor:
        """Integers in [low, high)."""
        return torch.randint(low, high, size, generator=self.generator)


def config(**sizes) -> transformers.BertConfig:
    return transformers.BertConfig(**SIZES | sizes)


def with_ends(content: Tensor) -> Tensor:
    """Rows of ids with [CLS] and [SEP]."""
    ends = torch.full((len(content), 1), CLS), torch.full((len(content), 1), SEP)
    return torch.cat([ends[0], content, ends[1]], 1)


def train(make: Callable[[], nn.Module], batch: Callable[[], dict[str, Tensor]], steps: int) -> nn.Module:
    """The model that `make` returns, trained and in eval mode; the same weights each time."""
    torch.manual_seed(0)
    model = make().train()
    rate = 1e-2
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch()).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def chunk_ranges(length: int, lead: int, overlap: int) -> list[tuple[int, int]]:
    """The columns [start, stop) of content that each chunk of a row reads; `lead` as in `merged_by_hand`."""
    room = CHUNK - lead - 1
    starts = chunk_starts(length - lead - 1, room, overlap)
    return [(lead + start, min(lead + start + room, length - 1)) for start in starts]


def chunk_rows(ids: Tensor, lead: int, columns: tuple[int, int]) -> Tensor:
    """One chunk of each row of ids, with the first `lead` tokens and the last."""
    return torch.cat([ids[:, :lead], ids[:, columns[0] : columns[1]], ids[:, -1:]], 1)
