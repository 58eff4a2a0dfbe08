"""rank: evidence far from the beginning, on a model trained here; scores of CrossEncoder; Chinese; errors."""

import re

import pytest
import torch
from helpers.chinese import chinese_text, chinese_tokenizer
from helpers.keyed_texts import OVERLAP, answers, keyed_texts, trained_reranker
from helpers.tiny_bert import save_tiny_bert
from helpers.tiny_sentence_models import LONG, OTHER, save
from helpers.trained_models import CHUNK
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import rank

transformers = pytest.importorskip("transformers")

TEXTS = [words(150), words(5, 1), words(40, 2), words(90, 3)]


@pytest.fixture(scope="module")
def reranker():
    return trained_reranker()


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def head_model(labels=1, seed=0, **options):
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, num_labels=labels, initializer_range=0.3, pad_token_id=1, **options,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def logits_of(model, tokenizer, query, text, **options):
    inputs = tokenizer(query, text, return_tensors="pt", verbose=False)
    with lckernels.lengthened(model, tokenizer, **options), torch.no_grad():
        return model(**inputs).logits[0]


def test_the_word_that_answers_is_far_from_the_beginning(reranker, tokenizer):
    """Of two texts the right one comes first; of the first chunk alone it is one of two."""
    cases = keyed_texts(20)

    def right(**options):
        ranked = [
            rank(reranker, tokenizer, query, texts, overlap=OVERLAP, **options) for query, texts in cases
        ]
        first = [
            answers(query, texts[found[0].index]) for (query, texts), found in zip(cases, ranked, strict=True)
        ]
        return sum(first) / len(first), ranked

    share, ranked = right()
    assert share >= 0.95
    assert all(one.coverage == 1.0 and one.num_tokens == 120 for found in ranked for one in found)
    truncated, ranked = right(limit=CHUNK - 4)
    assert 0.25 <= truncated <= 0.75
    assert all(one.coverage < 0.3 and one.num_tokens == CHUNK - 4 for found in ranked for one in found)


def test_scores_and_order(tokenizer):
    model = head_model()
    found = rank(model, tokenizer, "w7 w8", TEXTS, overlap=5, batch=3)
    expected = [logits_of(model, tokenizer, "w7 w8", text, overlap=5).sigmoid().item() for text in TEXTS]
    assert [one.index for one in found] == sorted(range(4), key=lambda i: -expected[i])
    for one in found:
        assert one.score == pytest.approx(expected[one.index], abs=1e-6)
        assert one.coverage == 1.0 and one.num_tokens == len(TEXTS[one.index].split())
    assert rank(model, tokenizer, "w7 w8", TEXTS, 2, overlap=5) == found[:2]
    assert rank(model, tokenizer, "w7 w8", [], 2) == []
    (alone,) = rank(model, tokenizer, "w7 w8", TEXTS[2], overlap=5)
    assert (alone.index, alone.score) == (0, pytest.approx(expected[2], abs=1e-6))
    with lckernels.lengthened(model, tokenizer, overlap=5):
        assert [one.index for one in rank(model, tokenizer, "w7 w8", TEXTS)] == [one.index for one in found]


def test_equal_scores_keep_the_order_of_the_texts(tokenizer):
    found = rank(head_model(), tokenizer, "w7", [TEXTS[1], TEXTS[2], TEXTS[1], TEXTS[1]], batch=1)
    assert [one.index for one in found if one.index != 1] == [0, 2, 3]


def test_two_labels(tokenizer):
    model = head_model(2)
    for one in rank(model, tokenizer, "w7", TEXTS):
        logits = logits_of(model, tokenizer, "w7", TEXTS[one.index])
        assert one.score == pytest.approx(logits.softmax(0)[1].item(), abs=1e-6)


def test_activation(tokenizer):
    """A given one, then that of the config as CrossEncoder of version 4 stores it, else the sigmoid."""
    logit = logits_of(model := head_model(), tokenizer, "w7", TEXTS[2])
    identity = {"activation_fn": "torch.nn.modules.linear.Identity"}
    of_config = head_model(sentence_transformers=identity)
    older = head_model(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")
    unknown = head_model(sentence_transformers={"activation_fn": "somewhere.Function"})
    for one, options, expected in [
        (model, {}, logit.sigmoid()),
        (model, {"activation": torch.tanh}, logit.tanh()),
        (of_config, {}, logit),
        (older, {}, logit),
        (of_config, {"activation": torch.sigmoid}, logit.sigmoid()),
    ]:
        (found,) = rank(one, tokenizer, "w7", [TEXTS[2]], **options)
        assert found.score == pytest.approx(expected.item(), abs=1e-6)
    with pytest.warns(UserWarning, match=r"^model: activation 'somewhere.Function' of its config; the sigm"):
        (found,) = rank(unknown, tokenizer, "w7", [TEXTS[2]])
    assert found.score == pytest.approx(logit.sigmoid().item(), abs=1e-6)


@pytest.mark.parametrize("activation", [None, torch.nn.Identity()])
def test_cross_encoder(tmp_path, activation):
    """Of one chunk its own scores; of longer texts those that it has lengthened."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = save(tmp_path / "model", "BertForSequenceClassification", num_labels=1)
    model = sentence_transformers.CrossEncoder(folder, device="cpu", activation_fn=activation)
    model.eval()
    texts = ["red fox", "dog . two", "one"]
    own = model.predict([("blue dog", text) for text in texts])
    found = rank(model, None, "blue dog", texts)
    assert [one.score for one in found] == pytest.approx(sorted(own.tolist(), reverse=True), abs=1e-6)
    assert [one.index for one in found] == own.argsort()[::-1].tolist()
    found = rank(model, model.tokenizer, "blue dog", [LONG, OTHER])
    with lckernels.lengthened(model):
        scores = model.predict([("blue dog", LONG), ("blue dog", OTHER)])
        assert rank(model, None, "blue dog", [LONG, OTHER]) == found
    assert {one.index: one.score for one in found} == pytest.approx(
        dict(enumerate(scores.tolist())), abs=1e-6
    )
    assert model.max_seq_length == 16


def test_chinese():
    model, tokenizer, text = head_model(), chinese_tokenizer(), chinese_text()
    assert len(tokenizer) <= model.config.vocab_size
    texts = [text, text[:20], text[9:60]]
    found = rank(model, tokenizer, "谁住在上海?", texts)
    for one in found:
        expected = logits_of(model, tokenizer, "谁住在上海?", texts[one.index]).sigmoid().item()
        assert one.score == pytest.approx(expected, abs=1e-6)
        assert one.coverage == 1.0 and one.num_tokens == len(texts[one.index])


def test_bad_input(tokenizer):
    model = head_model()
    for change, message in [
        ({"query": " "}, r"^query: got white space alone"),
        ({"texts": ["w7", ""]}, r"^texts\[1\]: got an empty text"),
        ({"top_k": 0}, r"^top_k: got 0; expected an int >= 1"),
        (
            {"query": words(40)},
            r"^query: got 43 tokens, special tokens included; a chunk of 32",
        ),
        (
            {"model": head_model(3)},
            r"^model: got BertForSequenceClassification of 3 labels; expected one",
        ),
        (
            {"model": head_model(2), "activation": torch.tanh},
            r"^activation: got a function for a model",
        ),
        ({"model": head_model().train()}, r"^model: got BertForSequenceClassification in training mode"),
        ({"chunk_len": 99}, r"^chunk_len: got 99"),
        ({"batch": 0}, r"^batch: got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            rank(**{"model": model, "tokenizer": tokenizer, "query": "w7", "texts": TEXTS, **change})
    for change, message in [
        ({"query": ["w7"]}, r"^query: got list; expected a str"),
        ({"texts": 7}, r"^texts: got int"),
        ({"tokenizer": None}, r"^tokenizer: got None; expected the model's fast tokenizer"),
        ({"model": model.bert}, r"^model: got BertModel, without a head for sequence classification"),
        ({"model": "x"}, r"^model: got str; expected a model"),
    ]:
        with pytest.raises(TypeError, match=message):
            rank(**{"model": model, "tokenizer": tokenizer, "query": "w7", "texts": TEXTS, **change})
    with (
        lckernels.lengthened(model, tokenizer, prefix=None),
        pytest.raises(ValueError, match="every chunk has to read the query; expected prefix='pair'"),
    ):
        rank(model, tokenizer, "w7", TEXTS)


def test_a_model_for_embeddings_is_no_cross_encoder(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(save(tmp_path / "model"), device="cpu")
    with pytest.raises(TypeError, match=r"^model: got SentenceTransformer; expected a CrossEncoder"):
        rank(model, None, "red", ["dog"])


@pytest.mark.parametrize("texts, place", [("\u200b", "texts"), (["w7", "\u200b"], "texts[1]")])
def test_a_text_without_a_token_has_the_arguments_name(tmp_path, texts, place):
    tokenizer = transformers.AutoTokenizer.from_pretrained(save_tiny_bert(tmp_path / "model"))
    with pytest.raises(ValueError, match=f"^{re.escape(place)}: got a text without a token"):
        rank(head_model(), tokenizer, "w7", texts)
