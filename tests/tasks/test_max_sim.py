"""max_sim against a plain loop, in blocks; rank_max_sim with encoders and MultiVectorEncoder."""

import pytest
import torch
from helpers.chinese import chinese_bert, chinese_text, chinese_tokenizer
from helpers.encoder_models import tiny
from helpers.live_bytes import LiveBytes
from helpers.tiny_sentence_models import LONG, OTHER, save
from helpers.word_tokenizer import word_tokenizer, words

import lckernels
from lckernels.tasks import max_sim, rank_max_sim

TEXTS = [words(150), words(5, 1), words(40, 2), words(90, 3)]


def draw(rows, dim=8, seed=0):
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loop(query, document):
    """The score, and the row of each maximum."""
    total, rows = 0.0, []
    for q in query:
        similarities = [float(q @ d) for d in document]
        total += max(similarities)
        rows.append(similarities.index(max(similarities)))
    return total, rows


@pytest.mark.parametrize("block", [1, 7, 50, 8192])
@pytest.mark.parametrize("normalize", [False, True])
def test_is_that_of_a_loop(block, normalize):
    query, document = draw(5), draw(50, seed=1)
    score, similarities, tokens = max_sim(query, document, normalize=normalize, block=block)
    if normalize:
        query, document = (x / x.norm(dim=1, keepdim=True) for x in (query, document))
    expected, rows = by_loop(query, document)
    assert score.item() == pytest.approx(expected, abs=1e-12)
    assert tokens.tolist() == rows and similarities.sum() == score


def test_several_documents_and_dtypes():
    query, documents = draw(5), [draw(n, seed=n) for n in (1, 9, 300)]
    found = max_sim(query, documents)
    assert [one.score.item() for one in found] == pytest.approx([by_loop(query, one)[0] for one in documents])
    half = max_sim(query.bfloat16(), documents[1].bfloat16())
    assert half.score.dtype == torch.float32
    expected, _ = by_loop(query.bfloat16().double(), documents[1].bfloat16().double())
    assert half.score.item() == pytest.approx(expected, rel=1e-5)
    assert max_sim(query, []) == []


def test_gradients_and_ties():
    query, document = draw(4).requires_grad_(), draw(30, seed=1).requires_grad_()
    for normalize in (False, True):
        assert torch.autograd.gradcheck(
            lambda q, d, normalize=normalize: max_sim(q, d, normalize=normalize, block=7).score,
            (query, document),
        )
    document = torch.zeros(20, 8)
    assert max_sim(draw(4).float(), document, block=6).tokens.tolist() == [0] * 4


def test_memory_is_that_of_a_block():
    """All similarities of 500 queries' tokens and 20,000 of a document are 40 MB."""
    query, document = draw(500).float(), draw(20_000, seed=1).float()
    with LiveBytes() as live:
        max_sim(query, document, block=256)
    assert 500 * 256 * 4 <= live.peak < 4 * 500 * 256 * 4


@pytest.mark.parametrize("way", ["encoder", "LongEncoder", "lengthened"])
def test_an_encoder_of_long_texts(way):
    model, tokenizer = tiny(), word_tokenizer()
    given = lckernels.LongEncoder(model) if way == "LongEncoder" else model
    query = words(4, 5)
    if way == "lengthened":
        with lckernels.lengthened(model, tokenizer):
            found = rank_max_sim(given, tokenizer, query, TEXTS, batch=2)
    else:
        found = rank_max_sim(given, tokenizer, query, TEXTS, batch=2)
    encoder, scores = lckernels.LongEncoder(model), {}

    def states(text):
        inputs = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", verbose=False)
        with torch.no_grad():
            rows = encoder(input_ids=inputs["input_ids"]).last_hidden_state[0, 1:-1]
        return rows / rows.norm(dim=1, keepdim=True), inputs["offset_mapping"][0, 1:-1].tolist()

    for one in found:
        text = TEXTS[one.index]
        rows, offsets = states(text)
        assert len(rows) == len(text.split()) == one.num_tokens  # each token once, over all chunks
        scores[one.index], places = by_loop(states(query)[0], rows)
        assert one.score == pytest.approx(scores[one.index], abs=1e-4) and one.coverage == 1.0
        assert [(match.start, match.end) for match in one.matches] == [tuple(offsets[i]) for i in places]
        assert [match.query for match in one.matches] == query.split()
        assert all(text[match.start : match.end] == match.text for match in one.matches)
        assert sum(match.score for match in one.matches) == pytest.approx(one.score, abs=1e-5)
    assert [one.index for one in found] == sorted(range(4), key=lambda i: -scores[i])
    assert rank_max_sim(model, tokenizer, query, TEXTS, 1)[0].index == found[0].index


def test_the_words_of_the_query_are_found_at_the_end():
    """They are in the last chunk of one text alone; a state depends on its word more than on its place."""
    model, tokenizer = tiny(), word_tokenizer()
    torch.nn.init.zeros_(model.embeddings.position_embeddings.weight)
    query = " ".join(["w5", "w6", "w7", "w8"])
    fillers = [" ".join(f"w{20 + (i * i + seed) % 40}" for i in range(200)) for seed in range(3)]
    texts = [fillers[0], f"{fillers[1]} {query}", fillers[2]]
    found = rank_max_sim(model, tokenizer, query, texts)
    assert found[0].index == 1
    assert [match.text for match in found[0].matches] == query.split()
    assert min(match.start for match in found[0].matches) >= len(fillers[1])
    limited = rank_max_sim(model, tokenizer, query, texts, limit=100)
    assert all(one.num_tokens == 100 and one.coverage < 0.6 for one in limited)


def test_chinese():
    tokenizer, text = chinese_tokenizer(), chinese_text()
    texts = [text, "他们都喜欢读书!"]
    found = rank_max_sim(chinese_bert(), tokenizer, "\U00020bb7野家在东京", texts)
    (of_text,) = (one for one in found if one.index == 0)
    assert [match.query for match in of_text.matches] == list("\U00020bb7野家在东京")
    assert all(len(match.text) == 1 and text[match.start] == match.text for match in of_text.matches)
    assert of_text.num_tokens == len(text)


@pytest.fixture
def colbert(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    if not hasattr(sentence_transformers, "MultiVectorEncoder"):
        pytest.skip("MultiVectorEncoder is new in sentence-transformers 6")
    torch.manual_seed(1)
    return sentence_transformers.MultiVectorEncoder(save(tmp_path / "model"), device="cpu")


@pytest.mark.parametrize("kind", ["plain", "expansion and skipped words", "prompts", "mean"])
def test_multi_vector_encoder(colbert, kind):
    """The scores are those of its own encode and similarity after `lengthen`."""
    if kind == "expansion and skipped words":
        colbert[0].query_expansion = {"strategy": "fixed", "length": 8, "token": None, "attend": False}
        colbert[0].query_length = 8
        colbert[2].skiplist_words = ["."]
        colbert[2].resolve_with_tokenizer(colbert.tokenizer)
    if kind == "prompts":
        colbert.prompts = {"query": "one ", "document": "two , "}
    if kind == "mean":
        colbert.similarity_fn_name = "meanmaxsim"
    query, texts = "red Fox .", [LONG, "blue . dog", f"{OTHER} . red fox"]
    found = rank_max_sim(colbert, None, query, texts, batch=2)
    with lckernels.lengthened(colbert):
        rows = colbert.encode_document(texts)
        of_query = colbert.encode_query([query])
        expected = colbert.similarity(of_query, rows)[0]
        assert rank_max_sim(colbert, None, query, texts, batch=2) == found
    for one in found:
        text = texts[one.index]
        assert one.score == pytest.approx(expected[one.index].item(), abs=1e-5)
        assert len(one.matches) == len(of_query[0]) and one.coverage == 1.0
        assert one.num_tokens == len(text.split())
        places = (of_query[0] @ rows[one.index].T).argmax(1).tolist()
        words_of = [match.query for match in one.matches if match.query]
        assert words_of == ["red", "Fox", "."]
        assert all(text[match.start : match.end] == match.text for match in one.matches)
        if kind in ("plain", "mean"):  # a row per token, [CLS] first
            starts = [0, *(len(" ".join(text.split()[:n])) + (n > 0) for n in range(len(text.split()))), 0]
            assert [match.start for match in one.matches] == [starts[i] for i in places]
        if kind == "expansion and skipped words":
            assert "." not in {match.text for match in one.matches} and len(one.matches) == 8
    assert colbert.max_seq_length == 16


def test_limit_of_a_multi_vector_encoder(colbert):
    (one,) = rank_max_sim(colbert, None, "red", [OTHER], limit=40)
    assert one.num_tokens == 40 and 0.3 < one.coverage < 0.6
    (short,) = rank_max_sim(colbert, None, "red", [" ".join(OTHER.split()[:40])])
    assert one.score == short.score and short.coverage == 1.0


def test_bad_states():
    for arguments, message in [
        ((draw(2)[0], draw(3)), r"^query_states: got shape \(8,\); expected 2 dimensions \(num_query_tokens"),
        ((draw(2), draw(3, 4)), r"^document_states: got shape \(3, 4\); expected \(num_tokens, 8\)"),
        ((draw(2), [draw(3), draw(0)]), r"^document_states\[1\]: got shape \(0, 8\); .*at least 1"),
        ((draw(2), draw(3).long()), r"^document_states: got dtype torch.int64"),
    ]:
        with pytest.raises(ValueError, match=message):
            max_sim(*arguments)
    with pytest.raises(ValueError, match=r"^block: got 0"):
        max_sim(draw(2), draw(3), block=0)


def test_bad_input(tmp_path):
    model, tokenizer = tiny(), word_tokenizer()
    for change, message in [
        ({"query": ""}, r"^query: got an empty text"),
        ({"texts": ["w5", "  "]}, r"^texts\[1\]: got white space alone"),
        ({"top_k": -1}, r"^top_k: got -1"),
        ({"model": tiny().train()}, r"^model: got BertModel in training mode"),
    ]:
        with pytest.raises(ValueError, match=message):
            rank_max_sim(**{"model": model, "tokenizer": tokenizer, "query": "w5", "texts": TEXTS, **change})
    with pytest.raises(TypeError, match=r"^normalize: got 1; expected True or False"):
        rank_max_sim(model, tokenizer, "w5", TEXTS, normalize=1)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    other = sentence_transformers.SentenceTransformer(save(tmp_path / "model"), device="cpu")
    with pytest.raises(TypeError, match=r"^model: got SentenceTransformer, trained for one vector per text"):
        rank_max_sim(other, None, "red", ["dog"])


def test_bad_input_of_a_multi_vector_encoder(colbert):
    with pytest.raises(ValueError, match=r"^tokenizer: got .*; MultiVectorEncoder has its own"):
        rank_max_sim(colbert, word_tokenizer(), "red", ["dog"])
    with (
        lckernels.lengthened(colbert),
        pytest.raises(ValueError, match=r"^overlap: got 2 for MultiVectorEncoder, which is lengthened"),
    ):
        rank_max_sim(colbert, None, "red", ["dog"], overlap=2)
    colbert.train()
    with pytest.raises(ValueError, match=r"^model: got MultiVectorEncoder in training mode"):
        rank_max_sim(colbert, None, "red", ["dog"])


@pytest.mark.parametrize("row", [0, 2, 4, 5])
@pytest.mark.parametrize("block", [2, 3, 100])
def test_a_row_of_nan_is_the_maximum_in_every_block(row, block):
    document = draw(6)
    document[row] = float("nan")
    found = max_sim(draw(3, seed=1), document, block=block)
    assert found.score.isnan() and found.similarities.isnan().all() and found.tokens.tolist() == [row] * 3
