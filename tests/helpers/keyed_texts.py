"""Queries of one word and texts of which one has the word that answers the query, far from its beginning."""

import torch
from helpers.encoder_models import CLS, SEP, VOCAB
from helpers.trained_models import CHUNK, Draw, config, train
from transformers import BertForSequenceClassification

KEYS, FILLER = 2, 15
QUERY, ANSWER = 5, 9  # the first id of the queries, of the words that answer them
LEAD = 3  # [CLS], the query, [SEP]
OVERLAP = 8


def trained_reranker(labels=1, steps=100):
    """A cross-encoder of 32 positions, trained on pairs of one chunk.

    The head has also learned what the query is and which word the text has, without which it does not learn
    in seconds whether they agree; these labels are then cut off.
    """
    draw = Draw()

    def batch(size=64, length=CHUNK):
        ids = draw(FILLER, VOCAB, size, length)
        key, answer = draw(0, KEYS, 2, size)
        ids[torch.arange(size), draw(LEAD, length - 1, size)] = ANSWER + answer
        ids[:, 0], ids[:, 1], ids[:, 2], ids[:, -1] = CLS, QUERY + key, SEP, SEP
        types = (torch.arange(length) >= LEAD).long().expand_as(ids)
        given = torch.stack([key, answer, key == answer], 1).float()
        return {"input_ids": ids, "token_type_ids": types, "labels": given}

    def make():
        sizes = {"num_labels": 3, "problem_type": "multi_label_classification"}
        return BertForSequenceClassification(config(vocab_size=VOCAB, pad_token_id=1, **sizes))

    model = train(make, batch, steps)
    one = BertForSequenceClassification(config(vocab_size=VOCAB, pad_token_id=1, num_labels=labels))
    one.bert.load_state_dict(model.bert.state_dict())
    torch.nn.init.zeros_(one.classifier.weight)
    with torch.no_grad():
        one.classifier.weight[-1], one.classifier.bias[-1] = (
            model.classifier.weight[2],
            model.classifier.bias[2],
        )
    return one.eval()


def keyed_texts(count, length=120):
    """(query, texts): each text has the word of one key, in its last third."""
    draw, found = Draw(2), []
    for i in range(count):
        texts = []
        for key in torch.randperm(KEYS, generator=draw.generator).tolist():
            ids = draw(FILLER, VOCAB, length)
            ids[int(draw(2 * length // 3, length, 1))] = ANSWER + key
            texts.append(" ".join(f"w{x}" for x in ids.tolist()))
        found.append((f"w{QUERY + i % KEYS}", texts))
    return found


def answers(query, text):
    """Whether the text has the word of the query's key."""
    return f"w{ANSWER + int(query[1:]) - QUERY}" in text.split()
