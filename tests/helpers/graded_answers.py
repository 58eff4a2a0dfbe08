"""A model for questions that a test trains in seconds: answers have grades, and the highest one is right.

The question is a key, w5 or w6. An answer begins with a begin mark of this key and ends with an end mark of
it; of several marks the one of the highest grade is right. Marks of the other key are none. A text without
marks of the key has no answer. Everything is a word of `word_tokenizer`.
"""

import torch
from helpers.encoder_models import CLS, PAD, SEP, VOCAB
from helpers.trained_models import CHUNK, Draw, config, train
from torch import Tensor
from transformers import BertForQuestionAnswering

KEYS, GRADES = 2, 4
FIRST_FILLER = 30
LEAD = 3  # [CLS], the key, [SEP]


def key_word(key: int) -> int:
    return 5 + key


def begin_mark(key: int, grade: int) -> int:
    return 7 + GRADES * key + grade


def end_mark(key: int, grade: int) -> int:
    return 7 + GRADES * (KEYS + key) + grade


def text_of(marks: dict[int, int], length: int, seed: int = 0) -> str:
    """A text of so many words: fillers, and the given words at their places."""
    ids = Draw(seed)(FIRST_FILLER, VOCAB, length).tolist()
    return " ".join(f"w{marks.get(place, word)}" for place, word in enumerate(ids))


def train_model(steps: int = 250) -> BertForQuestionAnswering:
    """Trained on rows of one chunk; a quarter of them has no answer."""
    draw = Draw()

    def batch(rows: int = 32, length: int = CHUNK - LEAD - 1) -> dict[str, Tensor]:
        content, key = draw(FIRST_FILLER, VOCAB, rows, length), draw(0, KEYS, rows)
        positions = torch.zeros(2, rows, dtype=torch.long)
        for row, own in enumerate(key.tolist()):
            places = torch.randperm(length, generator=draw.generator)[:8].tolist()
            decoys = zip(places[:2], draw(0, 2, 2).tolist(), draw(0, GRADES, 2).tolist(), strict=True)
            for place, is_end, grade in decoys:
                content[row, place] = (end_mark if is_end else begin_mark)(1 - own, grade)
            if not int(draw(0, 4, 1)):
                continue
            for side, mark in enumerate((begin_mark, end_mark)):
                count = int(draw(1, 4, 1))
                grades = torch.randperm(GRADES, generator=draw.generator)[:count].tolist()
                for place, grade in zip(places[2 + 3 * side :], grades, strict=False):
                    content[row, place] = mark(own, grade)
                best = grades.index(max(grades))
                positions[side, row] = LEAD + places[2 + 3 * side + best]
        ends = [torch.full((rows, 1), token) for token in (CLS, SEP)]
        ids = torch.cat([ends[0], 5 + key[:, None], ends[1], content, ends[1]], 1)
        types = (torch.arange(ids.shape[1]) >= LEAD).long().expand_as(ids)
        return {
            "input_ids": ids,
            "token_type_ids": types,
            "start_positions": positions[0],
            "end_positions": positions[1],
        }

    sizes = {"vocab_size": VOCAB, "pad_token_id": PAD, "num_hidden_layers": 2}
    return train(lambda: BertForQuestionAnswering(config(**sizes)), batch, steps)
