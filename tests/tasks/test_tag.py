"""tag: entities across edges of chunks, on a model trained here; labels, words and scores against loops."""

# ruff: noqa: E402
import pytest
import torch

transformers = pytest.importorskip("transformers")

from helpers.head_models import head_model
from helpers.plain_tags import plain_entities, plain_viterbi
from helpers.tagger import LABELS, character_tokenizer, document, trained_tagger, with_entities
from helpers.tiny_bert import LETTERS
from helpers.tiny_decoder import byte_tokenizer
from helpers.trained_models import CHUNK, Draw
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import Entity, tag
from lckernels.tasks.tagging.schemes import read_scheme
from lckernels.tasks.tagging.tag import _word_scores
from lckernels.tasks.tagging.words import Words

OVERLAP, ROOM = 8, CHUNK - 2
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("B-A", "I-A", "E-A", "S-A", "O", "B-B", "I-B", "E-B", "S-B", "[PAD]")


@pytest.fixture(scope="module")
def tagger():
    return trained_tagger()


@pytest.fixture(scope="module")
def documents():
    draw = Draw(1)
    return [document(draw, 200) for _ in range(12)]


def spans(found):
    return {(entity.start, entity.end, entity.label) for entity in found.entities}


def f1(found, gold):
    """Of entities that match exactly."""
    right = sum(len(one & other) for one, other in zip(found, gold, strict=True))
    return 2 * right / sum(len(one) + len(other) for one, other in zip(found, gold, strict=True))


def by_chunk(model, read, text):
    """Entities of each chunk's words, tagged alone and put together."""
    words = text.split(" ")
    parts = [" ".join(words[first : first + ROOM]) for first in range(0, len(words), ROOM)]
    place, found = 0, set()
    for part, one in zip(parts, tag(model, read, parts), strict=True):
        found |= {(start + place, end + place, label) for start, end, label in spans(one)}
        place += len(part) + 1
    return found


@pytest.mark.parametrize("kind", ("words", "characters"))
def test_entities_across_the_edges_of_chunks(tagger, documents, kind):
    """English words, and Chinese characters without spaces, some above U+FFFF."""
    read, separator = (word_tokenizer(), " ") if kind == "words" else (character_tokenizer(), "")
    texts, gold = zip(*(one.text(read, separator) for one in documents), strict=True)
    found = tag(tagger, read, list(texts), overlap=OVERLAP)
    assert f1([spans(one) for one in found], gold) == 1.0
    for one, text in zip(found, texts, strict=True):
        assert one.scheme == "BIO" and one.coverage == 1.0 and one.num_tokens == 200
        assert all(entity.text == text[entity.start : entity.end] for entity in one.entities)
    if kind == "words":
        assert f1([by_chunk(tagger, read, text) for text in texts], gold) < 0.8


def test_scored_with_nervaluate(tagger, documents):
    nervaluate = pytest.importorskip(
        "nervaluate", reason="nervaluate is not installed; it is in lckernels[dev]"
    )
    read = word_tokenizer()
    texts, gold = zip(*(one.text(read) for one in documents), strict=True)

    def score(found):
        parts = [
            [[{"label": x[2], "start": x[0], "end": x[1]} for x in sorted(one)] for one in side]
            for side in (gold, found)
        ]
        results = nervaluate.Evaluator(*parts, tags=["PER", "LOC"], loader="dict").evaluate()
        return results["overall"]["strict"].f1

    found = [spans(one) for one in tag(tagger, read, list(texts), overlap=OVERLAP)]
    parts = [by_chunk(tagger, read, text) for text in texts]
    assert score(found) == 1.0 and score(parts) == pytest.approx(f1(parts, gold))


def test_one_entity_across_the_edge_of_a_chunk(tagger):
    """The first chunk ends behind four of its eight words; alone, the others are of another type."""
    read = word_tokenizer()
    text, gold = with_entities(Draw(2), 60, [(ROOM - 4, 8, "PER")]).text(read)
    assert spans(tag(tagger, read, text, overlap=OVERLAP)) == gold
    parts = by_chunk(tagger, read, text)
    assert len(parts) == 2 and {label for *_, label in parts} == {"PER", "LOC"}


def test_neighbouring_entities_of_two_types_that_the_pipeline_of_transformers_merges(tagger, monkeypatch):
    """Its second chunk begins within the PER; of the overlapping entities it keeps the longer one alone."""
    read = word_tokenizer()
    begin = ROOM - OVERLAP - 4
    text, gold = with_entities(Draw(3), 60, [(begin, 8, "PER"), (begin + 8, 8, "LOC")]).text(read)
    monkeypatch.setattr(tagger.config, "id2label", {i: x.split("-")[-1] for i, x in enumerate(LABELS)})
    pipe = transformers.pipeline(
        "token-classification", model=tagger, tokenizer=read, aggregation_strategy="simple"
    )
    (merged,) = pipe(text, stride=OVERLAP)
    (person,), (place,) = ([x for x in gold if x[2] == label] for label in ("PER", "LOC"))
    assert merged["entity_group"] == "LOC" and merged["start"] < person[1] and merged["end"] == place[1]
    found = tag(tagger, read, text, overlap=OVERLAP)
    assert spans(found) == gold and found.scheme == "IO"


def random_tagger(labels, seed=0):
    """A BERT with random weights, and a tokenizer that cuts words into letters."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *".,-'0123中文"]
    pieces += [f"##{letter}" for letter in LETTERS]
    read = transformers.BertTokenizerFast(vocab={piece: i for i, piece in enumerate(pieces)})
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=128, initializer_range=1.0,
        id2label=dict(enumerate(labels)),
    )  # fmt: skip
    return transformers.BertForTokenClassification(config).eval(), read


def in_loops(model, read, text, labels, scheme, how):
    """(start, end, label, score) of each entity, with words from the tokenizer and loops over them."""
    encoding = read(text, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoding.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        probabilities = model(**encoding).logits[0].double().softmax(1)
    tokens = {}
    for column, word in enumerate(encoding.word_ids(0)):
        if word is not None:
            tokens.setdefault(column if how == "none" else word, []).append(column)
    scores = torch.stack(
        [probabilities[own].mean(0) if how == "mean" else probabilities[own[0]] for own in tokens.values()]
    )
    allowed = read_scheme(dict(enumerate(labels)), scheme)
    path = plain_viterbi(scores.log(), allowed.transitions, allowed.begin, allowed.end)
    groups = list(tokens.values())
    for first, last, label in plain_entities([labels[i] for i in path]):
        score = sum(scores[i, path[i]].item() for i in range(first, last)) / (last - first)
        yield offsets[groups[first][0]][0], offsets[groups[last - 1][-1]][1], label, score


@pytest.mark.parametrize("how", ("first", "mean", "none"))
@pytest.mark.parametrize(
    ("scheme", "labels"), [("BIO", BIO), ("BIOES", BIOES), ("IO", ("I-A", "I-B", "O")), ("IOB1", BIO)]
)
def test_random_models_in_loops(scheme, labels, how):
    texts = ["the quick-brown fox, no. 12 in 中文中 isn't", "a", "ab\tcd\n\nef  gh, ij kl mn, op qr st uv"]
    count, given = 0, "IOB1" if scheme == "IOB1" else "auto"
    for seed in range(4):
        model, read = random_tagger(labels, seed)
        for text, found in zip(texts, tag(model, read, texts, given, words=how), strict=True):
            expected = list(in_loops(model, read, text, labels, scheme, how))
            assert found.scheme == scheme
            assert [(x.start, x.end, x.label) for x in found.entities] == [x[:3] for x in expected]
            assert [x.score for x in found.entities] == pytest.approx([x[3] for x in expected], abs=1e-5)
            count += len(expected)
    assert count > 20


def test_tokens_of_a_word_have_one_label():
    model, read = random_tagger(BIO)
    text = "quick brown foxes jump"
    edges = {0, 5, 6, 11, 12, 17, 18, 22}
    for how in ("first", "mean"):
        assert {
            x for one in tag(model, read, text, words=how).entities for x in (one.start, one.end)
        } <= edges
    assert (
        not {x for one in tag(model, read, text, words="none").entities for x in (one.start, one.end)}
        <= edges
    )


def test_lists_limits_and_lengthened_models(tagger, documents):
    read = word_tokenizer()
    texts = [documents[0].text(read)[0], "w5 w11 w12", documents[1].text(read)[0]]
    found = tag(tagger, read, texts, overlap=OVERLAP, batch=2)
    assert found[1].entities == [Entity(0, 10, "w5 w11 w12", found[1].entities[0].score, "PER")]
    assert [spans(tag(tagger, read, text, overlap=OVERLAP)) for text in texts] == [spans(x) for x in found]
    with lckernels.lengthened(tagger, read, overlap=OVERLAP):
        assert [spans(one) for one in tag(tagger, read, texts)] == [spans(one) for one in found]
    limited = tag(tagger, read, texts[0], overlap=OVERLAP, limit=50)
    end = len(" ".join(texts[0].split(" ")[:50]))
    assert limited.num_tokens == 50 and limited.coverage == pytest.approx(50 / 200, abs=0.02)
    assert (
        spans(limited) >= {x for x in spans(found[0]) if x[1] < end}
        and max(x.end for x in limited.entities) <= end
    )


def test_the_curve_is_the_probability_of_an_entity(tagger):
    read = word_tokenizer()
    text, _ = with_entities(Draw(4), 60, [(10, 6, "PER"), (40, 5, "LOC")]).text(read)
    found = tag(tagger, read, text, overlap=OVERLAP).curve
    assert [value > 0.5 for value in found.values] == [10 <= i < 16 or 40 <= i < 45 for i in range(60)]
    assert [text[place] for place in found.positions] == ["w"] * 60 and "entity" in found.name


def test_a_limit_that_leaves_white_space_alone():
    """The first token of bytes is a space."""
    model, _ = random_tagger(BIO)
    model.resize_token_embeddings(260)
    found = tag(model, byte_tokenizer(), " ab", limit=1)
    assert found.entities == [] and found.num_tokens == 1 and found.coverage == 0.0
    assert found.curve.values == [0.0]


def test_bad_input(tagger):
    read, text = word_tokenizer(), words(5)
    with pytest.raises(TypeError, match="tokenizer: got CanineTokenizer, without offsets"):
        tag(tagger, transformers.CanineTokenizer(), text)
    with pytest.raises(TypeError, match="model: got BertForSequenceClassification, without a head for token"):
        tag(head_model("bert", "SequenceClassification"), read, text)
    with pytest.raises(
        ValueError, match="model: got labels LABEL_0, LABEL_1, LABEL_2, which are of no scheme"
    ):
        tag(head_model("bert", "TokenClassification"), read, text)
    with pytest.raises(ValueError, match="words: got 'all'; allowed are 'first', 'mean', 'none'"):
        tag(tagger, read, text, words="all")
    with pytest.raises(ValueError, match="scheme: got 'BIOX'; allowed are 'auto', 'BIO', 'IOB1'"):
        tag(tagger, read, text, "BIOX")
    with pytest.raises(ValueError, match="scheme: got 'BIOES' for the labels O, PER"):
        tag(random_tagger(("O", "PER"))[0], read, text, "BIOES")
    with pytest.raises(ValueError, match="text: got white space alone; expected a text"):
        tag(tagger, read, " \n ")
    with pytest.raises(TypeError, match=r"text\[1\]: got int; expected a str"):
        tag(tagger, read, [text, 5])


def test_logits_that_are_nan_raise():
    model, read = random_tagger(BIO)
    with torch.no_grad():
        model.classifier.bias[2] = float("nan")
    with pytest.raises(ValueError, match=r"model: got logits with NaN or inf at token 0 of text\[1\]"):
        tag(model, read, ["ab", "cd ef"])  # the longer text is read first


def test_the_mean_of_probabilities_that_underflow():
    """exp(-200) is 0 in float32; a label is forbidden only where no token of the word has it."""
    found = Words(torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.tensor([[0, 4], [4, 6]]))
    infinite = -float("inf")
    logits = torch.tensor([[0.0, -200.0, infinite], [0.0, -300.0, infinite], [0.0, infinite, -1.0]])
    expected = logits.double().softmax(1)
    expected = torch.stack([expected[:2].mean(0), expected[2]]).log()
    scores = _word_scores(logits, found, "mean")
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, rtol=1e-6, atol=1e-6)


def test_logits_of_minus_inf_alone():
    model, read = random_tagger(BIO)
    with torch.no_grad():
        model.classifier.bias.fill_(-float("inf"))
    with pytest.raises(ValueError, match=r"model: got logits of -inf alone at token 0 of text; "):
        tag(model, read, "ab")
