"""Texts with two entities, each with an attribute beside it, whose relation depends on both attributes."""

import torch
from helpers.encoder_models import CLS, SEP, VOCAB
from helpers.trained_models import CHUNK, Draw, config, train
from torch import nn
from transformers import BertModel

from lckernels.tasks import RelationHead, pair_states

LABELS = ["same", "less"]  # of the attributes of head and tail; greater is no relation
NUM_ATTRIBUTES = 4
# Ids: the mention of each of two entities, the first of the attributes of each, the first other word.
MENTIONS, ATTRIBUTES, FILLER = torch.tensor([5, 10]), torch.tensor([6, 11]), 15


class Extractor(nn.Module):
    """An encoder and a head on the states of two columns, for training on rows of one chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = BertModel(config(vocab_size=VOCAB, pad_token_id=1), add_pooling_layer=False)
        self.head = RelationHead(32, 2)

    def forward(self, input_ids, columns, labels):
        """Of texts of two rows (size, 2, CHUNK), head and tail at `columns` (size, 2) of both."""
        size = len(input_ids)
        states = self.encoder(input_ids.flatten(0, 1)).last_hidden_state.view(size, -1, 32)
        entities = states[torch.arange(size)[:, None], columns].flatten(0, 1)
        head = 2 * torch.arange(size)
        pairs = pair_states(entities, torch.stack([head, head + 1], 1))
        return self.head(pairs.head, pairs.tail, labels)


def relation(head, tail):
    """Of two attributes: a row of labels."""
    return torch.stack([head == tail, head < tail], -1).float()


def trained_extractor(steps=220):
    """Its encoder has 32 positions; half of its texts have both entities in one row, the others in two."""
    draw = Draw()

    def batch(size=32):
        ids = draw(FILLER, VOCAB, size, 2, CHUNK)
        ids[:, :, 0], ids[:, :, -1] = CLS, SEP
        attributes = draw(0, NUM_ATTRIBUTES, size, 2)
        same = draw(0, 3, size) == 0
        attributes[same, 1] = attributes[same, 0]
        columns = torch.stack([draw(1, 14, size), draw(16, 29, size) + CHUNK * draw(0, 2, size)], 1)
        rows, flat = torch.arange(size)[:, None], ids.view(size, -1)
        flat[rows, columns], flat[rows, columns + 1] = MENTIONS, ATTRIBUTES + attributes
        return {"input_ids": ids, "columns": columns, "labels": relation(*attributes.unbind(1))}

    return train(Extractor, batch, steps)


def distant_entities(count, length=400):
    """`count` texts of so many words, the spans of their two entities, and the relation of head and tail.

    The entities are in the first and in the last quarter; a third of the pairs has each relation, or none.
    """
    draw, found = Draw(1), []
    for i in range(count):
        words = [f"w{x}" for x in draw(FILLER, VOCAB, length).tolist()]
        low, high = sorted(torch.randperm(NUM_ATTRIBUTES, generator=draw.generator)[:2].tolist())
        head, tail = [(low, low), (low, high), (high, low)][i % 3]
        places = draw(0, length // 4, 2).tolist()
        places[1] += length - length // 4 - 1
        for place, entity, attribute in zip(places, (0, 1), (head, tail), strict=True):
            words[place : place + 2] = [f"w{MENTIONS[entity]}", f"w{ATTRIBUTES[entity] + attribute}"]
        starts = [len(" ".join(words[:place])) + (place > 0) for place in places]
        spans = [(start, start + len(words[place])) for start, place in zip(starts, places, strict=True)]
        found.append((" ".join(words), spans, {0: "same", 1: "less", 2: None}[i % 3]))
    return found
