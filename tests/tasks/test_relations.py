"""relations: pairs many chunks apart, on a model trained here; equal to a plain loop; errors."""

import pytest
import torch
from helpers.chinese import chinese_bert, chinese_text, chinese_tokenizer
from helpers.encoder_models import tiny
from helpers.related_entities import LABELS, distant_entities, trained_extractor
from helpers.trained_models import CHUNK, chunk_ranges
from helpers.word_tokenizer import word_tokenizer, words
from torch import nn

import lckernels
from lckernels.tasks import RelationHead, entity_states, pair_states, relations
from lckernels.tasks.results import Span


@pytest.fixture(scope="module")
def extractor():
    return trained_extractor()


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def labels_of(found):
    return {(relation.head, relation.tail): relation.label for relation in found.relations}


def by_chunk(extractor, tokenizer, text, entities):
    """The relations that a reader of chunks finds: each chunk is a text of its own, with its entities."""
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    found = {}
    for first, last in chunk_ranges(len(offsets), 1, 8):
        begin, end = offsets[first][0], offsets[last - 1][1]
        inside = [i for i, (start, stop) in enumerate(entities) if begin <= start and stop <= end]
        if len(inside) < 2:
            continue
        spans = [(entities[i][0] - begin, entities[i][1] - begin) for i in inside]
        of_chunk = relations(
            extractor.encoder, tokenizer, text[begin:end], spans, extractor.head, labels=LABELS
        )
        found |= {(inside[i], inside[j]): label for (i, j), label in labels_of(of_chunk).items()}
    return found


def accuracy(predicted, cases):
    return sum(
        found.get((0, 1)) == label for found, (_, _, label) in zip(predicted, cases, strict=True)
    ) / len(cases)


def test_entities_many_chunks_apart(extractor, tokenizer):
    """A third of the pairs has each label or none, so a reader that finds nothing has a third."""
    cases = distant_entities(48)
    texts, entities, _ = zip(*cases, strict=True)
    assert all((tail[0] - head[0]) / 4 > 5 * CHUNK for head, tail in entities)
    found = relations(
        extractor.encoder,
        tokenizer,
        texts,
        entities,
        extractor.head,
        labels=LABELS,
        pairs=[[(0, 1)]] * len(cases),
    )
    merged = accuracy([labels_of(one) for one in found], cases)
    chunked = accuracy([by_chunk(extractor, tokenizer, *case[:2]) for case in cases], cases)
    assert merged >= 0.95
    assert chunked == pytest.approx(1 / 3)
    assert all(one.coverage == 1.0 and one.num_tokens == 400 and one.num_pairs == 1 for one in found)


def test_a_reader_of_chunks_finds_relations_within_a_chunk(extractor, tokenizer):
    """What it lacks above is the distance alone."""
    cases = distant_entities(30, length=24)
    assert accuracy([by_chunk(extractor, tokenizer, *case[:2]) for case in cases], cases) >= 0.95


def test_is_that_of_a_plain_loop(tokenizer):
    torch.manual_seed(0)
    model, head = tiny(), RelationHead(16, 3, block=4).eval()
    nn.init.normal_(head.bilinear.weight)
    text = words(150)
    starts = [m for m in range(len(text)) if text[m] == "w"]
    entities = [(starts[3], starts[5] - 1), [(starts[9], starts[10]), (starts[140], starts[141])],
                Span(starts[80], starts[81] - 1, "x", 1.0), (starts[120], starts[122])]  # fmt: skip
    found = relations(model, tokenizer, text, entities, head, labels=["a", "b", "c"])
    encoding = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", verbose=False)
    with torch.no_grad():
        states = lckernels.LongEncoder(model)(input_ids=encoding["input_ids"]).last_hidden_state[0]
        pairs = pair_states(entity_states(states, encoding["offset_mapping"][0], entities, text=text))
        logits = head(pairs.head, pairs.tail).logits
    expected = {}
    for (i, j), row in zip(pairs.index.tolist(), logits, strict=True):
        for label, logit in zip("abc", row[1:], strict=True):
            if logit >= row[0]:
                expected[i, j, label] = torch.sigmoid(logit - row[0]).item()
    assert 0 < len(expected) < 36
    assert {(r.head, r.tail, r.label): pytest.approx(r.score, abs=1e-5) for r in found.relations} == expected
    scores = [relation.score for relation in found.relations]
    assert scores == sorted(scores, reverse=True) and found.num_pairs == 12
    every = relations(model, tokenizer, text, entities, head, threshold=0)
    assert len(every.relations) == 36 and {r.label for r in every.relations} == {"0", "1", "2"}
    assert relations(model, tokenizer, text, [], head).relations == []
    with lckernels.lengthened(model, tokenizer):
        assert labels_of(relations(model, tokenizer, text, entities, head)) == {
            key: str("abc".index(label)) for key, label in labels_of(found).items()
        }


def test_more_pairs_than_a_block(tokenizer):
    model, head = tiny(), RelationHead(16, 1, block=4).eval()
    text = words(60)
    starts = [m for m in range(len(text)) if text[m] == "w"]
    entities = [(start, start + 2) for start in starts[::3]]
    found = relations(model, tokenizer, text, entities, head, threshold=0)
    pairs = {(r.head, r.tail) for r in found.relations}
    assert len(entities) == 20 and found.num_pairs == len(pairs) == len(found.relations) == 380
    some = relations(model, tokenizer, text, entities, head, threshold=0, pairs=[(7, 3)]).relations
    (same,) = (r for r in found.relations if (r.head, r.tail) == (7, 3))
    assert some[0].score == pytest.approx(same.score, abs=1e-6) and len(some) == 1


def test_chinese():
    model, tokenizer, text = chinese_bert(), chinese_tokenizer(), chinese_text()
    head = RelationHead(16, 1, block=4).eval()
    entities = [
        [(i, i + 2) for i in range(len(text)) if text.startswith(name, i)] for name in ("张三", "李四")
    ]
    assert [len(mentions) for mentions in entities] == [24, 12]
    found = relations(model, tokenizer, [text, text[:15]], [entities, [(0, 2), (7, 9)]], head, threshold=0)
    assert [len(one.relations) for one in found] == [2, 2]
    assert found[0].num_tokens == len(text) and found[0].coverage == found[1].coverage == 1.0


def test_limit(tokenizer):
    model, head = tiny(), RelationHead(16, 1).eval()
    text = words(60)
    end = len(" ".join(text.split()[:50]))
    found = relations(model, tokenizer, text, [(0, 2), (end - 2, end)], head, threshold=0, limit=50)
    assert found.num_tokens == 50 and 0.7 < found.coverage < 0.9 and len(found.relations) == 2
    message = rf"^entities\[1\]: got .*; expected mentions in what is read, {end} characters"
    with pytest.raises(ValueError, match=message):
        relations(model, tokenizer, text, [(0, 2), (end + 1, end + 3)], head, limit=50)


def test_a_head_trains_on_merged_states(tokenizer):
    """The encoder too, in chunks that its row does not fit in."""
    encoder = lckernels.LongEncoder(tiny()).train()
    head = RelationHead(16, 2)
    encoding = tokenizer(text := words(80), return_offsets_mapping=True, return_tensors="pt", verbose=False)
    states = encoder(input_ids=encoding["input_ids"]).last_hidden_state[0]
    entities = entity_states(states, encoding["offset_mapping"][0], [(0, 2), (len(text) - 2, len(text))])
    pairs = pair_states(entities)
    loss = head(pairs.head, pairs.tail, torch.tensor([[1, 0], [0, 1]])).loss
    loss.backward()
    gradient = encoder.model.embeddings.word_embeddings.weight.grad
    ids = encoding["input_ids"][0]
    assert (gradient[ids[1]].abs().max() > 0) and (gradient[ids[-2]].abs().max() > 0)


def test_bad_input(tokenizer):
    model, head, text = tiny(), RelationHead(16, 2).eval(), words(40)
    spans = [(0, 2), (len(text) - 2, len(text))]
    cases = [
        ({"text": "  "}, r"^text: got white space alone"),
        (
            {"entities": [(0, 2), (len(text), len(text) + 2)]},
            r"^entities\[1\]\[0\]: got .*; expected 0 <= start",
        ),
        ({"entities": [[]]}, r"^entities\[0\]: got \[\]"),
        ({"pairs": [(0, 2)]}, r"^pairs\[0\]: got \(0, 2\); expected pairs \(head, tail\) of numbers below 2"),
        ({"labels": ["a"]}, r"^labels: got 1 names; the head has 2 relations"),
        ({"how": "sum"}, r"^how: got 'sum'; allowed are"),
        ({"threshold": 2}, r"^threshold: got 2; expected a number from 0 to 1"),
        ({"head": RelationHead(16, 2)}, r"^head: got RelationHead in training mode; expected head.eval"),
        ({"head": RelationHead(8, 2).eval()}, r"^head: got shape \(2, 16\); expected \(2, 8\)"),
        ({"text": [text, text]}, r"^entities\[0\]: got \(0, 2\); expected|^entities\[0\]\[0\]"),
        ({"text": [text] * 3}, r"^entities: got 2 lists; expected a list for each of 3 texts"),
        ({"batch": 0}, r"^batch: got 0"),
        ({"limit": 0}, r"^limit: got 0"),
    ]
    for change, message in cases:
        arguments = {"text": text, "entities": spans, "head": head, **change}
        with pytest.raises(ValueError, match=message):
            relations(model, tokenizer, **arguments)
    for change, message in [
        ({"head": None}, r"^head: got NoneType; expected a module, such as a RelationHead"),
        ({"text": 3}, r"^text: got int"),
    ]:
        with pytest.raises(TypeError, match=message):
            relations(model, tokenizer, **{"text": text, "entities": spans, "head": head, **change})


def test_a_wrong_pair_of_one_of_several_texts(tokenizer):
    text, spans = "w1 w2 w3", [(0, 2), (3, 5)]
    head = RelationHead(16, 1, block=4).eval()
    for wrong, message in (
        ([(0, 1), (0, 2)], r"^pairs\[1\]\[1\]: got \(0, 2\)"),
        ([(0, 1, 1)], r"^pairs\[1\]: got shape \(1, 3\)"),
        ([0.5], r"^pairs\[1\]: got"),
    ):
        with pytest.raises(ValueError, match=message):
            relations(tiny(), tokenizer, [text] * 2, [spans] * 2, head, pairs=[[(0, 1)], wrong])
