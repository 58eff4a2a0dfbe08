"""Classifiers that a test trains in seconds, with their tokenizers: English words, Chinese characters."""

import torch
import transformers
from helpers.trained_models import CLS, SEP, Draw, config, train, with_ends

import lckernels

OVERLAP = 10
LEFT, RIGHT = "left", "right"  # words whose exclusive or is a class
FILLERS = [f"word{i}" for i in range(30)]
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", LEFT, RIGHT, *FILLERS]
FIRST = WORDS.index(FILLERS[0])

# A sentence anywhere in a Chinese text has its subject; the characters of both are in all texts.
SUBJECTS = {"体育": "球队进球了。", "财经": "股票上涨了。"}
COMMON = "今天的天气很好我们去公园散步他说明天还会来。"
CHARACTERS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "[MASK]",
    *dict.fromkeys(COMMON + "".join(SUBJECTS.values())),
]


def tokenizer(tokens: list[str]) -> transformers.PreTrainedTokenizerFast:
    """BERT's, with these tokens, of which the first five are special; a Chinese character is a token."""
    assert (tokens[1], tokens[2]) == ("[CLS]", "[SEP]") and (CLS, SEP) == (1, 2)
    return transformers.BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)})


def exclusive_or() -> transformers.PreTrainedModel:
    """Labels of a text: whether LEFT is in it, whether RIGHT is, whether exactly one of the two is."""
    draw = Draw()

    def batch(number=64, length=50):
        ids, row = draw(FIRST, len(WORDS), number, length), torch.arange(number)
        a, b = draw(0, 2, 2, number)
        early, late = draw(0, 15, number), draw(length - 15, length, number)
        ids[row, early] = torch.where(a > 0, WORDS.index(LEFT), ids[row, early])
        ids[row, late] = torch.where(b > 0, WORDS.index(RIGHT), ids[row, late])
        return {"input_ids": with_ends(ids), "labels": torch.stack([a, b, a ^ b], 1).float()}

    def make():
        names = {0: "a", 1: "b", 2: "one of two"}
        sizes = {"num_labels": 3, "id2label": names, "problem_type": "multi_label_classification"}
        model = transformers.BertForSequenceClassification(config(**sizes))
        lckernels.lengthen(model, overlap=OVERLAP)
        return model

    model = train(make, batch, 150)
    lckernels.unlengthen(model)
    return model


def word_texts(kinds: torch.Tensor, seed: int, length: int = 50) -> list[str]:
    """Texts with LEFT at the beginning if kind // 2, and RIGHT at the end if kind % 2."""
    draw, texts = Draw(seed), []
    for kind in kinds.tolist():
        words = [FILLERS[i] for i in draw(0, len(FILLERS), length).tolist()]
        if kind // 2:
            words[int(draw(0, 15, 1))] = LEFT
        if kind % 2:
            words[int(draw(length - 15, length, 1))] = RIGHT
        texts.append(" ".join(words))
    return texts


def chinese_text(subject: str, draw: Draw, length: int = 90, last: int | None = None) -> tuple[str, int]:
    """A text with the sentence of a subject, and where it begins, perhaps among the last characters."""
    sentence = SUBJECTS[subject]
    characters = [COMMON[i] for i in draw(0, len(COMMON), length).tolist()]
    at = int(draw(0 if last is None else length - last, length - len(sentence), 1))
    characters[at : at + len(sentence)] = sentence
    return "".join(characters), at


def subject_of_text() -> transformers.PreTrainedModel:
    """The subject of a Chinese text, from one sentence anywhere in it."""
    draw, read = Draw(), tokenizer(CHARACTERS)
    names = dict(enumerate(SUBJECTS))

    def batch(number=24):
        labels = draw(0, 2, number)
        texts = [chinese_text(names[int(label)], draw)[0] for label in labels]
        ids = torch.tensor(read(texts, add_special_tokens=False)["input_ids"])
        return {"input_ids": with_ends(ids), "labels": labels}

    def make():
        model = transformers.BertForSequenceClassification(
            config(vocab_size=len(CHARACTERS), num_labels=2, id2label=names)
        )
        lckernels.lengthen(model, overlap=OVERLAP)
        return model

    model = train(make, batch, 90)
    lckernels.unlengthen(model)
    return model
