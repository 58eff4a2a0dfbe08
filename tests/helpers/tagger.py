"""A tagger trained in seconds, whose labels depend on a word that may be in another chunk; documents for it.

The word PERSON begins a PER, which words of NAMES continue. The word PLACE begins a LOC, which words of
PLACES or NAMES continue. So without a PERSON in its chunk a word of NAMES is part of a LOC. Other words are
outside.
"""

from dataclasses import dataclass

import torch
import transformers
from helpers.encoder_models import CLS, PAD, SEP, VOCAB
from helpers.trained_models import CHUNK, Draw, config, train
from helpers.word_tokenizer import SPECIAL

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
PERSON, PLACE = 5, 20  # ids of tokens; ranges below are [first, last)
NAMES, PLACES, FILLERS = (10, 20), (25, 30), (30, VOCAB)
_ROOM = CHUNK - 2


@dataclass(frozen=True)
class Labelled:
    """A document as ids of tokens, and its entities.

    Attributes:
        ids: of the tokens, without special ones.
        entities: (first token, token behind the last, type), rising.
    """

    ids: list[int]
    entities: list[tuple[int, int, str]]

    def text(self, tokenizer, separator=" "):
        """The text, and its entities as (start, end, type) in characters."""
        words = tokenizer.convert_ids_to_tokens(self.ids)
        starts = [0]
        for word in words:
            starts.append(starts[-1] + len(word) + len(separator))
        cut = len(separator)
        spans = {(starts[first], starts[last] - cut, name) for first, last, name in self.entities}
        return separator.join(words), spans


def with_entities(draw, length, entities):
    """A document of fillers with entities of `(place, length, type)`; those of LOC have words of PLACES."""
    ids = draw(*FILLERS, length).tolist()
    for place, size, name in entities:
        begin, inner = (PERSON, NAMES) if name == "PER" else (PLACE, PLACES)
        ids[place : place + size] = [begin, *draw(*inner, size - 1).tolist()]
    return Labelled(ids, [(place, place + size, name) for place, size, name in entities])


def document(draw, length):
    """A document with a PER each 30 to 40 tokens, so that the end of one in the next chunk is alone there.

    An entity has four to eight tokens; a LOC follows every second PER without a gap.
    """
    entities, place = [], int(draw(0, 30))
    while place + 16 < length:
        sizes = draw(4, 9, 2).tolist()
        entities.append((place, sizes[0], "PER"))
        if int(draw(0, 2)):
            entities.append((place + sizes[0], sizes[1], "LOC"))
        place += int(draw(30, 40))
    return with_entities(draw, length, entities)


def trained_tagger():
    """A BERT of 32 positions for token classification with LABELS."""
    draw = Draw()
    sizes = config(vocab_size=VOCAB, pad_token_id=PAD)
    sizes.id2label = dict(enumerate(LABELS))
    sizes.label2id = {label: i for i, label in enumerate(LABELS)}
    return train(lambda: transformers.BertForTokenClassification(sizes), lambda: _batch(draw), steps=100)


def _batch(draw, size=32):
    rows = [_row(draw) for _ in range(size)]
    return {
        "input_ids": torch.tensor([[CLS, *ids, SEP] for ids, _ in rows]),
        "labels": torch.tensor([[-100, *labels, -100] for _, labels in rows]),
    }


def _row(draw):
    """A chunk and its labels: with a PERSON, or with words of NAMES that are part of a LOC."""
    ids, labels = draw(*FILLERS, _ROOM).tolist(), [0] * _ROOM
    has_person = bool(draw(0, 2))
    for is_person in (has_person, False):
        place, size = int(draw(0, _ROOM - 4)), int(draw(4, 9))
        end = min(place + size, _ROOM)
        if any(labels[place:end]):
            continue
        begin, inner = (PERSON, NAMES) if is_person else (PLACE, PLACES if has_person else NAMES)
        ids[place:end] = [begin, *draw(*inner, end - place - 1).tolist()]
        first = 1 if is_person else 3
        labels[place:end] = [first] + [first + 1] * (end - place - 1)
    return ids, labels


def character_tokenizer():
    """BERT's tokenizer with a Chinese character for each word; every tenth one is above U+FFFF."""
    characters = {chr(0x20000 + i if i % 10 == 0 else 0x4E00 + i): i for i in range(5, VOCAB)}
    return transformers.BertTokenizerFast(vocab={**SPECIAL, **characters}, model_max_length=CHUNK)
