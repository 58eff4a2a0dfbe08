"""T5's summaries of documents: the loss of the summary's words, and the words that greedy search finds."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.long_tasks.data.documents import PAD, SEP, Batch
from bench.long_tasks.readings import Pieces

IGNORED = -100


def rows(documents: Tensor) -> Tensor:
    """document [SEP]; [SEP] ends T5's rows."""
    return F.pad(documents, (0, 1), value=SEP)


def loss(model: nn.Module, documents: Tensor, labels: Tensor) -> Tensor:
    """The mean loss of the words and of the end; `IGNORED` labels count nothing."""
    return model(input_ids=rows(documents), labels=labels, use_cache=False).loss


def with_end(labels: Tensor) -> Tensor:
    """(batch, num_items + 1) labels with [SEP] behind the last word."""
    return F.pad(labels, (0, 1), value=SEP)


def words(model: nn.Module, documents: Tensor, num_items: int) -> Tensor:
    """(batch, num_items) words of greedy search, PAD behind the end."""
    options = {"max_new_tokens": num_items, "do_sample": False, "num_beams": 1}
    found = model.generate(input_ids=rows(documents), **options)[:, 1:]
    found = F.pad(found, (0, num_items - found.shape[1]), value=PAD)
    return torch.where(found == SEP, PAD, found)


def chunk_labels(batch: Batch, pieces: Pieces) -> tuple[Tensor, Tensor]:
    """Chunks (batch * num_chunks, content) and the summary of each (batch * num_chunks, num_items + 1).

    It has the words of the document's summary whose evidence is in the chunk, in the same order, then [SEP].
    """
    chunks, starts = pieces.of(batch.documents)
    place = batch.evidence[:, None] - starts[:, None]  # (batch, num_chunks, num_items)
    inside = (place >= 0) & (place < chunks.shape[2])
    order = (~inside).int().argsort(dim=-1, stable=True)
    found = torch.where(inside, batch.labels[:, None], IGNORED).gather(-1, order)
    labels = F.pad(found, (0, 1), value=IGNORED)
    labels.scatter_(-1, inside.sum(-1, keepdim=True), SEP)
    return chunks.flatten(0, 1), labels.flatten(0, 1)


def joined(found: Tensor, num_documents: int, num_items: int) -> Tensor:
    """(num_documents, num_items) words of all chunks of a document in order, each once, PAD behind them."""
    lists = found.view(num_documents, -1).tolist()
    once = [list(dict.fromkeys(x for x in words if x != PAD))[:num_items] for words in lists]
    return torch.tensor([words + [PAD] * (num_items - len(words)) for words in once])
